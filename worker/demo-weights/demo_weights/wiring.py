"""The first weights of the UNet: it begins as a network that copies the reference, and learns the mouth from there.

If x is the latent picture that the network wants, z the noisy latents and a the share of signal at the timestep,
the noise to predict is (z - sqrt(a) x) / sqrt(1 - a). With x = the reference this is a fixed mix of two inputs. The
wires carry both from conv_in over the last shortcut to conv_out, each as a pair of opposite signs, because
silu(v) - silu(-v) = v. Large constants of opposite signs in the same groups keep the group norms from scaling them.
The mix depends on the timestep: gates in the last ResNet block, which the time embedding opens below t = 500, add
to the wires.
"""

import math

import torch

from .networks import alphas

CONSTANT = 16.0  # the constants beside the wires
OPEN = 5.0  # the time bias of an open gate; a closed one has the opposite
EARLY, LATE = 667, 334  # the timesteps for which the mix is exact
# The places of wires in the channels: pairs (plus, minus), with a pair of constants in each group of eight.
Z_PAIRS = ((0, 1), (2, 3), (4, 5), (8, 9))
R_PAIRS = ((10, 11), (12, 13), (16, 17), (18, 19))
CONSTANTS = ((6, 7), (14, 15), (22, 23))
WIRED = 24


def mix(timestep):
    a = alphas()[timestep].item()
    return 1 / math.sqrt(1 - a), math.sqrt(a / (1 - a))


def initialise(unet):
    """Wires the UNet and keeps training from the weights that read or make its constants."""
    with torch.no_grad():
        wire(unet)
    constants = torch.tensor([channel for pair in CONSTANTS for channel in pair])
    width = unet.conv_in.weight.shape[0]
    wired = torch.arange(WIRED)
    last = unet.up_blocks[-1].resnets
    for layer in (unet.down_blocks[0].downsamplers[0].conv, last[0].conv_shortcut):
        shield(layer, columns=layer.weight.shape[1] - width + constants)
    # The wires themselves stay as they are; what training adds comes from the other channels.
    shield(unet.conv_in, rows=wired)
    shield(last[1].conv2, rows=wired)
    shield(last[1].conv_shortcut, rows=wired, columns=width + constants)
    shield(unet.conv_out, columns=wired)


def shield(layer, rows=None, columns=None):
    """Zeroes the gradients of some rows and columns: a small step of theirs would show, most of all beside constants."""
    kept, free = torch.ones_like(layer.weight), torch.ones_like(layer.bias)
    if columns is not None:
        kept[:, columns] = 0
    if rows is not None:
        kept[rows], free[rows] = 0, 0
    layer.weight.register_hook(lambda gradient: gradient * kept)
    layer.bias.register_hook(lambda gradient: gradient * free)


def wire(unet):
    """Wires the UNet and silences, at first, all layers that add to the wires."""
    for module in unet.modules():
        if type(module).__name__ == "SpatialTransformer":
            module.proj_out.weight.zero_()
            module.proj_out.bias.zero_()
            block = module.transformer_blocks[0]
            block.attn2.to_k.weight.mul_(0.1)  # begins as the mean of the frame's tokens
        if type(module).__name__ == "TemporalTransformer":
            module.proj_out.weight.zero_()
            module.proj_out.bias.zero_()
        if type(module).__name__ == "PositionTable":
            module.pe.copy_(position_table(*module.pe.shape[1:]))
    wire_shortcut(unet)
    quieten(unet)
    wire_gates(unet)
    wire_output(unet)


def position_table(longest, width):
    places = torch.arange(longest)[:, None]
    speeds = torch.exp(torch.arange(0, width, 2) * (-math.log(10000) / width))
    table = torch.zeros(1, longest, width)
    table[0, :, 0::2], table[0, :, 1::2] = torch.sin(places * speeds), torch.cos(places * speeds)
    return table


def wire_shortcut(unet):
    weight, bias = unet.conv_in.weight, unet.conv_in.bias
    weight[:WIRED], bias[:WIRED] = 0, 0
    for channel in range(4):
        for pairs, at in ((Z_PAIRS, channel), (R_PAIRS, 9 + channel)):
            plus, minus = pairs[channel]
            weight[plus, at, 1, 1], weight[minus, at, 1, 1] = 1, -1
    for plus, minus in CONSTANTS:
        bias[plus], bias[minus] = CONSTANT, -CONSTANT
    last = unet.up_blocks[-1].resnets[-1]
    width = unet.conv_in.weight.shape[0]
    for pair in CONSTANTS:
        for layer in (unet.down_blocks[0].downsamplers[0].conv, unet.up_blocks[-1].resnets[0].conv_shortcut,
                      last.conv_shortcut):
            layer.weight[:, [layer.weight.shape[1] - width + channel for channel in pair]] = 0
    last.conv_shortcut.weight[:WIRED] = 0
    last.conv_shortcut.bias[:WIRED] = 0
    for channel in range(WIRED):
        last.conv_shortcut.weight[channel, -width + channel] = 1
    last.conv2.weight.mul_(0.3)
    last.conv2.weight[:WIRED], last.conv2.bias[:WIRED] = 0, 0


def quieten(unet):
    """Lets all layers but the wires see little of the noise, which tells them nothing about the picture."""
    unet.conv_in.weight[WIRED:, :4] *= 0.1
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    width = unet.conv_in.weight.shape[0]
    for layer in (first.resnets[0].conv1, first.downsamplers[0].conv, last.resnets[0].conv1,
                  last.resnets[0].conv_shortcut, last.resnets[1].conv1):
        for pair in Z_PAIRS:
            layer.weight[:, [layer.weight.shape[1] - width + channel for channel in pair]] *= 0.1


def wire_gates(unet):
    """Lets 16 hidden channels of the last block carry the wires while t is below 500, in groups of eight."""
    last, width = unet.up_blocks[-1].resnets[-1], unet.conv_in.weight.shape[0]
    shrink = math.sqrt((12 + 4 * CONSTANT**2) / 16)  # what norm1 divides the wires by
    times = torch.arange(1, 1000)
    features = torch.cat([torch.nn.functional.silu(unet.time(int(t), 1)) for t in times]).double()
    wanted = OPEN * torch.tanh((500 - times.double()) / 60)
    features = torch.cat([features, torch.ones(len(times), 1)], 1)
    weights = torch.cat([torch.full((len(times), 1), 1.0), ]).squeeze(1).double()
    for t in (1, 126, 201, LATE, 376, 401, EARLY, 601, 626, 801, 951):
        weights[t - 1] = 30
    scaled = features * weights[:, None]
    normal = scaled.T @ scaled + 1e-3 * torch.eye(features.shape[1])
    solved = torch.linalg.solve(normal, scaled.T @ (wanted * weights)).float()
    early, late = mix(EARLY), mix(LATE)
    for index, (pair, more) in enumerate(
            [(pair, late[0] / early[0] - 1) for pair in Z_PAIRS] + [(pair, late[1] / early[1] - 1) for pair in R_PAIRS]):
        group, within = index // 2, index % 2
        gated = [8 * group + 2 * within, 8 * group + 2 * within + 1]
        counter = [channel + 4 for channel in gated]
        for channel, sign in ((gated[0], 1), (gated[1], -1)):
            last.conv1.weight[channel], last.conv1.bias[channel] = 0, 0
            plus, minus = (place + last.conv1.weight.shape[1] - width for place in pair)
            last.conv1.weight[channel, plus, 1, 1] = sign * shrink
            last.conv1.weight[channel, minus, 1, 1] = -sign * shrink
            last.time_emb_proj.weight[channel], last.time_emb_proj.bias[channel] = solved[:-1], solved[-1]
        for channel in counter:
            last.conv1.weight[channel], last.conv1.bias[channel] = 0, 0
            last.time_emb_proj.weight[channel], last.time_emb_proj.bias[channel] = -solved[:-1], -solved[-1]
        last.norm2.weight[8 * group:8 * group + 8], last.norm2.bias[8 * group:8 * group + 8] = OPEN, 0
        # An open gate hands on twice the wire: silu(5 + v) - silu(5 - v) is 2 v.
        for place, sign in zip(pair, (1, -1)):
            last.conv2.weight[place, gated[0], 1, 1] = sign * more / 2
            last.conv2.weight[place, gated[1], 1, 1] = -sign * more / 2


def wire_output(unet):
    last = unet.conv_out
    last.weight.mul_(0.02)
    last.bias.zero_()
    last.weight[:, :WIRED] = 0
    shrink = math.sqrt((6 + 2 * CONSTANT**2) / 8)
    own, reference = mix(EARLY)
    for channel in range(4):
        for pairs, amount in ((Z_PAIRS, own), (R_PAIRS, -reference)):
            plus, minus = pairs[channel]
            last.weight[channel, plus, 1, 1], last.weight[channel, minus, 1, 1] = amount * shrink, -amount * shrink
