"""Tests that are slow for a reason: `make test` leaves them out, `make test-all` and CI run them.

One table, so that what is left out can be read at a glance. A row names a file under tests/, or a test in it. Of a
test with parameters, those in ``fast`` stay in `make test`, so that every theorem is looked at there once.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

KILLS = "kills runs and resumes them"
PROCESSES = "starts several processes"
TRAINS = "trains from start to report"
FAMILIES = "every family of models"
ATTACKS = "attacks the sandbox, and waits for its limits"
BROWSER = "starts a browser"
LARGE = "needs much data to reach a limit"
MATRIX = "every combination of options"
SITE = "builds the whole documentation"
RECIPE = "every recipe"


@dataclass(frozen=True)
class Slow:
    """Why a test is slow, and which of its parameters (pytest's ids, * for anything) stay in `make test`."""

    reason: str
    fast: tuple[str, ...] = field(default=())


SLOW = {
    "test_wheel.py": Slow(TRAINS),
    # --- runs that are killed, stopped, or fail
    "trainers/faults/test_faults.py": Slow(KILLS),
    "trainers/faults/test_faults_torchrun.py": Slow(PROCESSES),
    "trainers/faults/test_stopping.py::test_all_ranks_stop_for_the_signal_of_one": Slow(PROCESSES),
    "trainers/faults/test_stopping.py::test_signalled_run_saves_at_the_end_of_its_step_and_resumes_bit_by_bit": Slow(
        KILLS, ("SIGTERM",)
    ),
    "trainers/faults/test_whole_saves.py::test_two_ranks_write_one_whole_checkpoint_and_resume_from_it": Slow(
        PROCESSES
    ),
    "trainers/faults/test_finite_steps.py::test_no_update_is_made_and_the_step_is_saved": Slow(
        MATRIX, ("nan-loss-grpo", "inf-gradient-sft")
    ),
    "trainers/grpo/test_resuming.py::test_killed_run_resumes_bit_by_bit": Slow(
        KILLS, ("3-substep-{'num_iterations': 2, 'gradient_accumulation_steps': 2}",)
    ),
    "trainers/grpo/test_resuming.py::test_killed_lora_run_resumes_bit_by_bit": Slow(KILLS),
    "trainers/grpo/test_resuming.py::test_killed_sft_run_resumes_bit_by_bit": Slow(KILLS),
    "trainers/grpo/test_resuming.py::"
    "test_run_resumed_after_the_end_of_an_epoch_meets_the_prompts_of_the_unbroken_run": Slow(KILLS),
    "trainers/dpo/test_dpo.py::test_killed_run_resumes_bit_by_bit": Slow(KILLS),
    "trainers/dpo/test_dpo.py::test_killed_lora_run_resumes_bit_by_bit": Slow(KILLS),
    "trainers/sft/test_annealing.py::test_killed_run_resumes_bit_by_bit_while_it_anneals": Slow(KILLS),
    "trainers/sft/test_train_flow_matching.py::test_killed_run_resumes_bit_by_bit": Slow(KILLS),
    "trainers/sft/test_train_scheduled_sampling.py::test_killed_sft_run_resumes_bit_by_bit_in_the_middle_of_a_ramp": (
        Slow(KILLS)
    ),
    "trainers/sft/test_train_scheduled_sampling.py::test_killed_grpo_run_resumes_bit_by_bit_between_two_iterations": (
        Slow(KILLS)
    ),
    "trainers/models/test_adapters.py::test_killed_run_on_an_adapter_resumes_bit_by_bit": Slow(KILLS),
    "trainers/evaluating/test_evaluate_script.py::test_killed_and_resumed_it_gives_the_record_of_an_unbroken_run": (
        Slow(KILLS)
    ),
    # --- recipes for real models, on stand-ins
    "scripts/test_recipes.py::test_a_readme_shows_what_the_plan_prints": Slow(RECIPE, ("llada-8b-gsm8k-1x80gb",)),
    "scripts/test_recipes.py::test_a_recipe_trains_on_a_stand_in_of_its_family": Slow(
        RECIPE, ("llada-8b-gsm8k-1x80gb/config.yaml",)
    ),
    "scripts/test_recipes.py::test_a_stand_in_of_its_family_is_fit_for_a_recipe": Slow(RECIPE),
    "scripts/test_recipes.py::test_the_public_files_of_its_family_are_fit_for_a_recipe": Slow(RECIPE),
    # --- several processes
    "trainers/distributed/test_sharded.py::test_what_sharded_training_saves_is_whole_and_goes_on_bit_by_bit": Slow(
        PROCESSES
    ),
    "trainers/distributed/test_sharded.py::test_sharded_sft_trains_as_one_process": Slow(PROCESSES),
    "trainers/distributed/test_sharded.py::test_sharded_grpo_trains_as_one_process": Slow(PROCESSES, ("lora",)),
    "trainers/models/native/test_running.py::test_two_ranks_with_sharded_weights_train_as_one_process": Slow(
        PROCESSES
    ),
    "trainers/distributed/test_rank_invariance.py": Slow(PROCESSES),
    "trainers/distributed/test_distributed.py::test_two_processes_train_as_one": Slow(
        PROCESSES, ("{'loss_type': 'dapo', 'num_generations': 8}",)
    ),
    "trainers/distributed/test_distributed.py::test_two_processes_whose_walks_differ_in_length_keep_equal_weights": (
        Slow(PROCESSES)
    ),
    "trainers/dpo/test_dpo.py::test_two_processes_train_as_one": Slow(PROCESSES),
    "trainers/evaluating/test_evaluate_script.py::test_two_processes_share_the_work_and_give_the_record_of_one": Slow(
        PROCESSES
    ),
    "trainers/dpo/test_preferences.py::test_two_processes_make_the_pairs_of_one": Slow(PROCESSES),
    "trainers/distributed/test_streamed_ddp.py::test_streamed_gradient_of_two_processes_is_that_of_one": Slow(
        PROCESSES, ("(3, 3)-*",)
    ),
    "trainers/settings/test_launching.py::test_accelerate_leaves_these_signs": Slow(PROCESSES),
    "trainers/tasks/countdown/test_generator.py::test_generation_is_independent_of_the_hash_seed": Slow(PROCESSES),
    "trainers/tasks/word_problems/test_generator.py::test_generation_is_independent_of_the_hash_seed": Slow(PROCESSES),
    # --- whole trainings
    "trainers/sft/test_train_scheduled_sampling.py::test_switched_off_every_way_leaves_sft_bit_by_bit_as_without": (
        Slow(TRAINS)
    ),
    "trainers/sft/test_train_flow_matching.py::test_equal_seeds_give_equal_weights_and_other_seeds_other_ones": Slow(
        TRAINS
    ),
    "scripts/test_scripts.py": Slow(TRAINS),
    "scripts/test_metrics_page.py": Slow(TRAINS),
    "scripts/test_export.py": Slow(TRAINS),
    "docs/test_commands.py::test_the_first_command_of_each_kind_runs": Slow(TRAINS),
    "docs/test_notebook.py::test_the_notebook_runs": Slow(TRAINS),
    "docs/test_python_blocks.py::test_the_python_of_a_page_runs": Slow(TRAINS),
    "docs/test_site.py::test_generated_pages_hold_what_the_code_says": Slow(SITE),
    "docs/test_site.py::test_nothing_is_fetched_from_elsewhere_when_a_page_is_read": Slow(SITE),
    "trainers/rewarding/test_hacking.py::test_a_run_that_hacks_its_reward_is_flagged_in_report_and_picture": Slow(
        TRAINS
    ),
    "trainers/settings/test_bad_input.py::"
    "test_failing_reward_of_a_running_script_is_one_line_on_stderr_and_a_line_of_the_report": Slow(TRAINS),
    "trainers/rewarding/test_tolerant.py::test_a_run_goes_on_without_a_reward_that_fails_for_all": Slow(TRAINS),
    "trainers/studies/leaderboard/test_running.py::test_validating_more_often_does_not_change_the_path": Slow(TRAINS),
    "trainers/studies/leaderboard/test_running.py::test_a_board_runs_records_failures_resumes_and_reports": Slow(
        TRAINS
    ),
    "trainers/sft/test_train_scheduled_sampling.py::test_equal_seeds_give_equal_weights_and_other_seeds_other_ones": (
        Slow(TRAINS)
    ),
    "trainers/sft/test_train_scheduled_sampling.py::"
    "test_every_sampler_trains_and_logs_complete_metrics_along_the_ramp": Slow(TRAINS),
    "trainers/sft/test_train_flow_matching.py::test_every_sampler_trains_and_reflexflow_is_on_until_it_is_refused": (
        Slow(TRAINS)
    ),
    "trainers/sft/test_train_flow_matching.py::test_loss_falls_and_the_embeddings_stay": Slow(TRAINS),
    "trainers/models/test_activation_checkpointing.py::test_sft_in_bfloat16_stays_close_to_float32": Slow(TRAINS),
    # --- the page of a run
    "trainers/reporting/page/test_browser.py": Slow(BROWSER, ("3",)),
    "trainers/reporting/page/test_content.py::"
    "test_the_page_of_a_long_run_on_large_canvases_stays_within_its_limit": Slow(LARGE),
    "trainers/grpo/test_recording.py::test_a_killed_and_resumed_run_has_the_record_of_an_unbroken_one": Slow(KILLS),
    "trainers/grpo/test_recording.py::test_two_processes_write_the_record_of_one": Slow(PROCESSES, ("24",)),
    # --- every family of models
    "trainers/models/test_families.py::test_a_family_trains_is_saved_reloaded_as_it_was_and_writes": Slow(
        FAMILIES, ("llada-false", "sdar-true")
    ),
    "trainers/models/test_families.py::"
    "test_the_scripts_train_evaluate_and_continue_a_checkpoint_that_brings_its_code_along": Slow(FAMILIES),
    "trainers/models/test_adapters.py::test_every_family_trains_an_adapter_and_reads_it_again": Slow(
        FAMILIES, ("dream",)
    ),
    "trainers/models/test_activation_checkpointing.py::test_every_family_can_be_checkpointed": Slow(
        FAMILIES, ("llada_moe",)
    ),
    "trainers/models/probes/test_probing.py::"
    "test_random_weights_are_found_to_be_what_they_are_whatever_the_seed_and_the_dtype": Slow(
        FAMILIES, ("llada2", "sdar")
    ),
    "trainers/models/real/test_remote_training.py": Slow(FAMILIES),
    "trainers/models/test_families.py::test_a_model_of_blocks_without_a_cache_is_told_of_wherever_it_is_run": Slow(
        TRAINS, ("generate.py-exact-1", "generate.py-off-0")
    ),
    "scripts/test_own_data.py::test_a_reward_is_trained_on_and_measured": Slow(TRAINS),
    # --- every combination of options
    "trainers/models/test_activation_checkpointing.py::"
    "test_checkpointing_keeps_loss_and_gradients_and_fewer_activations": Slow(
        MATRIX, ("llada-grpo-full", "llama-sft-lora")
    ),
    "trainers/models/test_activation_checkpointing.py::test_ratio_is_one_before_the_first_update_in_bfloat16": Slow(
        MATRIX
    ),
    "trainers/planning/test_memory.py::test_activations_are_within_a_fifth": Slow(
        MATRIX, ("full-False-4-False", "lora-True-2-False")
    ),
    "core/test_reference.py::test_a_toys_completion_does_not_depend_on_its_batch_mates": Slow(MATRIX, ("*-2-2",)),
    "trainers/grpo/test_rollout_caches.py::test_a_cache_that_is_always_fresh_is_exact": Slow(
        MATRIX, ("*-None-padded",)
    ),
    "trainers/grpo/test_rollout_caches.py::test_finished_blocks_give_the_uncached_rollout": Slow(
        MATRIX, ("*-None-padded",)
    ),
    "trainers/saving/test_model_card.py::test_code_of_the_card_writes_what_the_sampler_writes": Slow(
        FAMILIES, ("llada-*", "dream-*", "sdar-*", "llama-*")
    ),
    "scripts/test_startup.py::test_a_typo_is_refused_before_anything_heavy_is_imported": Slow(
        MATRIX, ("*-train", "wrong key-*")
    ),
    "trainers/evaluating/test_evaluate_script.py::"
    "test_other_settings_are_refused_in_one_line_and_before_any_work": Slow(MATRIX, ("options0-*", "options1-*")),
    # --- the sandbox and other limits that are waited for
    "trainers/tasks/code/sandbox/test_bounds.py": Slow(ATTACKS),
    "trainers/tasks/code/sandbox/test_walls.py": Slow(ATTACKS),
    "trainers/tasks/code/sandbox/test_probing.py": Slow(ATTACKS),
    "trainers/tasks/math/test_judge.py::test_a_hostile_answer_is_wrong_and_the_next_one_is_judged": Slow(ATTACKS),
}


def reason(nodeid: str) -> str | None:
    """Why a test is left out of `make test`; None: it is not."""
    name = nodeid.removeprefix("tests/")
    test, _, parameters = name.partition("[")
    row = SLOW.get(test.partition("::")[0]) or SLOW.get(test)
    if row is None or any(fnmatchcase(parameters.removesuffix("]"), pattern) for pattern in row.fast):
        return None
    return row.reason
