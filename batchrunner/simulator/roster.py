"""The models that the pretend provider lists."""

MODELS = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-235B-A22B",
    "deepseek-ai/DeepSeek-V4-Flash",
    "Qwen/Qwen-Image",
    "black-forest-labs/FLUX.1-Krea-dev",
    "Tongyi-MAI/Z-Image-Turbo",
)
"""What `GET /v1/models` lists. Every other id is served as well."""
