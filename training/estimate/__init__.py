"""What a training will cost, before it starts: steps, tokens, FLOPs, hours, memory, checkpoints, disk.

Nothing here loads weights or starts anything. A checkpoint's shapes come from the headers of its safetensors
files, without torch; those of a published model that is not on this machine from its configuration.

    python -m training.estimate --preset llava15_full --gpu h100 --gpus 8
"""
