"""Training: the YAML, the models, GRPO and SFT on Hugging Face TRL, the report. Imports core; core never imports
this."""
