"""The first weights of the autoencoder: it begins as one that keeps the mean colour of every 8 x 8 pixels.

The colours pass through both halves on wires: pairs of channels of opposite signs, which residual layers leave alone
and which silu keeps as silu(v) - silu(-v) = v. A pair of large constants beside them keeps the group norms from
scaling them. Colours are right from the first step on; training adds the detail. Three of the four latents begin as
colours, the fourth is free; training may change all of this.
"""

import math

import torch

WIRES = 8  # + and - of red, green, blue and of the constant
ENCODER_CONSTANT, DECODER_CONSTANT = 32.0, 8.0
LATENT_SCALE = 2.0  # colours in -1..1 have a deviation of about a half


def initialise(vae):
    with torch.no_grad():
        wire(vae)
    for layer in vae.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer not in (vae.quant_conv, vae.post_quant_conv):
            shield(layer, slice(WIRES - 2, WIRES), layer is vae.encoder.conv_in or layer is vae.decoder.conv_in)


def shield(layer, constants, first=False):
    """Keeps training from the weights that read or make the constants: they are so large that a small step shows."""
    makes = layer.out_channels > WIRES
    kept = torch.ones_like(layer.weight)
    with torch.no_grad():
        if not first:
            kept[:, constants] = 0
            if makes:
                layer.weight[:constants.start, constants] = 0
                layer.weight[constants.stop:, constants] = 0
            else:
                layer.weight[:, constants] = 0
    if makes:
        kept[constants] = 0
        free = torch.ones_like(layer.bias)
        free[constants] = 0
        layer.bias.register_hook(lambda gradient: gradient * free)
    layer.weight.register_hook(lambda gradient: gradient * kept)


def wire(vae):
    wire_half(vae.encoder, vae.encoder.down_blocks, "downsamplers", average_tap, ENCODER_CONSTANT)
    wire_half(vae.decoder, vae.decoder.up_blocks, "upsamplers", smooth_tap, DECODER_CONSTANT)
    enter(vae.encoder.conv_in, ENCODER_CONSTANT)
    enter(vae.decoder.conv_in, DECODER_CONSTANT)
    leave(vae.encoder.conv_out)
    leave(vae.decoder.conv_out)
    for layer, scale in ((vae.quant_conv, LATENT_SCALE), (vae.post_quant_conv, 1 / LATENT_SCALE)):
        layer.weight.zero_()
        layer.bias.zero_()
        for channel in range(4):
            layer.weight[channel, channel] = scale if channel < 3 else 1.0
    vae.quant_conv.bias[4:] = -12  # the variance of the latents is fixed and very small


def wire_half(half, blocks, resampler, tap, constant):
    resnets = [resnet for block in [half.mid_block, *blocks] for resnet in block.resnets]
    for resnet in resnets:
        resnet.conv2.weight[:WIRES], resnet.conv2.bias[:WIRES] = 0, 0
        if resnet.conv_shortcut is not None:
            resnet.conv_shortcut.weight[:WIRES], resnet.conv_shortcut.bias[:WIRES] = 0, 0
            for channel in range(WIRES):
                resnet.conv_shortcut.weight[channel, channel] = 1
        level(resnet.norm1, constant)
    attention = half.mid_block.attentions[0]
    attention.to_out[0].weight[:WIRES], attention.to_out[0].bias[:WIRES] = 0, 0
    level(attention.group_norm, constant)
    for block in blocks:
        for layer in getattr(block, resampler) or ():
            layer.conv.weight[:WIRES], layer.conv.bias[:WIRES] = 0, 0
            for channel in range(WIRES):
                tap(layer.conv.weight[channel, channel], channel >= WIRES - 2)
    level(half.conv_norm_out, constant)


def level(norm, constant):
    """Undoes what a group norm does to the group of the wires, whose constants outweigh all else in it."""
    size = norm.num_channels // norm.num_groups
    scale = math.sqrt((2 * constant**2 + 6 * 0.3 + (size - WIRES)) / size)
    norm.weight[:size] = scale
    norm.weight[WIRES - 2:WIRES] = 1


def average_tap(kernel, _):
    kernel[:2, :2] = 0.25


def smooth_tap(kernel, is_constant):
    line = torch.tensor([0.0, 1, 0] if is_constant else [0.25, 0.5, 0.25])
    kernel[:] = line[:, None] * line[None]


def enter(layer, constant):
    layer.weight[:WIRES], layer.bias[:WIRES] = 0, 0
    for colour in range(3):
        layer.weight[2 * colour, colour, 1, 1], layer.weight[2 * colour + 1, colour, 1, 1] = 1, -1
    layer.bias[WIRES - 2], layer.bias[WIRES - 1] = constant, -constant


def leave(layer):
    layer.weight[:3] *= 0.05
    layer.bias[:3] = 0
    layer.weight[:, :WIRES] = 0
    for colour in range(3):
        layer.weight[colour, 2 * colour, 1, 1], layer.weight[colour, 2 * colour + 1, 1, 1] = 1, -1
