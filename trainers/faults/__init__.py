"""What a run does when its machine or its numbers fail; docs/faults.md is the table.

`tolerant.FaultTolerant` is the mixin of all trainers: signals (`stopping`), losses and gradients that are not finite
(`finite_steps`), kills and full disks (`whole_saves`, `disk_space`). `manifest` and `publishing` say whether what is
on disk is whole, to `trainers.saving` as well. `behind` is what the parts of the mixin take for granted of a trainer.

It may import `trainers.settings` and what lies below, and knows no trainer. It hands on no name: who reads a manifest
must not wait for torch.
"""
