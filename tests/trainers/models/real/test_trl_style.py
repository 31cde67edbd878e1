"""The public model files, named as users of TRL name them: GRPO of an adapter on chats, saved and named again."""

import json
import shutil

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from real_models import real_models

from trainers import ImprovedDiffuGRPOConfig, ImprovedDiffuGRPOTrainer, load_policy
from trainers.settings.model import ModelArguments

# As LLaDA's instruct model has it; the base model's tokenizer, which is what stands in for it, has none.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ '<|startoftext|>' }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATS = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": f"What is {i} + 1?"}], "answer": f"#### {i + 1}"} for i in range(16)]
)


def length(completions, answer, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


@real_models("llada", "dream", "sdar")
def test_an_adapter_on_chats_is_trained_saved_and_named_again(real, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(real.path, model)
    config = model / "tokenizer_config.json"
    entries = json.loads(config.read_text())
    if real.family == "llada":
        config.write_text(json.dumps(entries | {"chat_template": TEMPLATE}))
    options = {
        "max_completion_length": 16,
        "max_timesteps": 8,
        "block_length": real.block_length,
        "p_mask_prompt": 0.0,
    }
    options |= {"num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1}
    options |= {"report_to": "none", "save_strategy": "no", "learning_rate": 1e-2, "beta": 0.1}
    args = ImprovedDiffuGRPOConfig(
        str(tmp_path / "out"), model_init_kwargs={"dtype": "bfloat16"}, gradient_checkpointing=True, **options
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    trainer = ImprovedDiffuGRPOTrainer(str(model), length, args, train_dataset=CHATS, peft_config=lora)
    assert trainer.policy.format.chat and trainer.policy.family == real.family
    assert isinstance(trainer.model, PeftModel) and trainer.policy.model.dtype == torch.bfloat16
    trainer.train()
    rows = [row for row in trainer.state.log_history if "rewards/length/failed" in row]
    assert [row["rewards/length/failed"] for row in rows] == [0.0, 0.0] and max(row["grad_norm"] for row in rows) > 0
    trainer.save_model(str(tmp_path / "saved"))
    again = ImprovedDiffuGRPOTrainer(
        str(tmp_path / "saved"),
        length,
        ImprovedDiffuGRPOConfig(str(tmp_path / "again"), **options),
        train_dataset=CHATS,
    )
    assert again.policy.format == trainer.policy.format and again.policy.name == str(model)
    before = load_policy(ModelArguments(str(model)), block_length=real.block_length).model.state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in again.model.state_dict().items())
