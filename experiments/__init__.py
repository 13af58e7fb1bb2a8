"""Studies: pretrain, finetune and compare objectives, from one yaml to one report."""
