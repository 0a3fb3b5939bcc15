"""The three small networks with the product's structure, and the constants that the product fixes."""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench-pytorch"))
from latentsync_torch import UNet, WhisperStates  # noqa: E402

SIDE = 128
FACTOR = 0.18215  # the product multiplies latents by it after encoding
AUDIO = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2}
TOKENS = 10 * (AUDIO["n_audio_layer"] + 1)

VAE_CONFIG = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [16, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 1,
    "norm_num_groups": 2, "out_channels": 3, "sample_size": SIDE, "up_block_types": ["UpDecoderBlock2D"] * 4,
}
UNET_CONFIG = {
    "act_fn": "silu", "add_audio_layer": True, "attention_head_dim": 4, "block_out_channels": [64, 96],
    "center_input_sample": False, "cross_attention_dim": AUDIO["n_audio_state"],
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"], "downsample_padding": 1, "flip_sin_to_cos": True,
    "freq_shift": 0, "in_channels": 13, "layers_per_block": 1, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock3DCrossAttn", "motion_module_decoder_only": False,
    "motion_module_kwargs": {
        "attention_block_types": ["Temporal_Self", "Temporal_Self"], "num_attention_heads": 4,
        "num_transformer_block": 1, "temporal_attention_dim_div": 1, "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 24, "zero_initialize": True,
    },
    "motion_module_mid_block": False, "motion_module_resolutions": [2], "motion_module_type": "Vanilla",
    "norm_eps": 1e-5, "norm_num_groups": 8, "out_channels": 4, "resnet_time_scale_shift": "default",
    "sample_size": SIDE // 8, "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"], "use_motion_module": True,
}


def new_vae():
    return AutoencoderKL(**{key: value for key, value in VAE_CONFIG.items() if not key.startswith("_")})


def new_whisper():
    return WhisperStates(*(AUDIO[name] for name in (
        "n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")))


def alphas():
    """Returns the cumulative products of the product's noise schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def mouth_mask():
    """Returns the product's mask at SIDE pixels: 1 = keep, 0 = draw anew, (1, 1, SIDE, SIDE), and that of the latents."""
    import cv2
    import numpy as np
    path = Path(__file__).resolve().parents[2] / "latentsync/src/published/mask_geometry.json"
    geometry = json.loads(path.read_text())
    mask = np.full((geometry["height"], geometry["width"]), geometry["background_value"], np.uint8)
    for run in geometry["zero_runs"]:
        for first, end in run["columns"]:
            mask[run["rows"][0]:run["rows"][1], first:end] = 0
    small = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_LANCZOS4)
    pixels = torch.from_numpy(small).float()[None, None] / 255
    return pixels, pixels[:, :, ::8, ::8].contiguous()
