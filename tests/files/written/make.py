"""Write graphs, and what they give, under the torch that is installed: `python -m tests.files.written.make FOLDER`.

The files in `torch-2.6` were written by `CUDA_VISIBLE_DEVICES= python -m tests.files.written.make
tests/files/written/torch-2.6` with torch 2.6.0, the oldest that loupe supports. Weights and inputs are made by
arithmetic, so that they are the same under every torch. Each graph is a file `NAME.loupe`; what it gives is computed by
plain PyTorch, without loupe, and lies beside it as `NAME.safetensors`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import loupe
from loupe import Model

X = torch.arange(24.0).remainder(7).sub(3).div(4).reshape(3, 8)


class Blocks(nn.Module):
    """Three blocks with a norm, a gate and a residual, whose weights are sines."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(number) for number in range(3))
        self.head = nn.Linear(8, 5)
        filled(self.head, 9)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        filled(self.up, number)
        filled(self.down, number + 3)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def filled(linear, seed):
    """Give a layer weights that are sines of whole numbers."""
    with torch.no_grad():
        for weight in linear.parameters():
            places = torch.arange(weight.numel(), dtype=torch.float64)
            weight.copy_((torch.sin(places * (seed + 1.7)) / 3).reshape(weight.shape))


def hooked(module, changes, x=X):
    """What a module gives while functions change the outputs of modules in it."""
    handles = [
        module.get_submodule(path).register_forward_hook(lambda _m, _a, output, change=change: change(output))
        for path, change in changes.items()
    ]
    try:
        return module(x)
    finally:
        for handle in handles:
            handle.remove()


def steering(model, module):
    """A vector of a half-precision dtype is added, times an open parameter."""
    vector = torch.arange(8, dtype=torch.bfloat16) / 8
    strength = loupe.param("strength", 2.0)
    with model.trace(X) as tracer:
        model.blocks[1].output[:] = model.blocks[1].output + vector * strength
        model.output.save("out")
    return tracer.graph, {"out": hooked(module, {"blocks.1": lambda output: output + vector * 2.0})}


def operations(model, module):
    """Many operations, by their names in torch, Tensor, nn.functional, linalg, fft, special and operator."""
    chosen = torch.tensor([True, False] * 4)

    def computed(value):
        value = torch.softmax(value, -1) + nn.functional.silu(value).clamp(min=-1, max=1.0)
        value = torch.where(chosen, value, torch.special.expit(value)) ** 2
        value = value @ torch.linalg.inv(torch.eye(8) * 2) - torch.fft.rfft(value).abs().sum(-1, keepdim=True)
        value[:, 1:7:2] *= -1
        mean, top = value.mean(dim=-1, keepdim=True), value.topk(2, dim=-1)[0]
        return torch.cat([value - mean, top, value.argsort(-1).to(torch.float32)], dim=1)

    with model.trace(X) as tracer:
        computed(model.blocks[0].output).save("computed")
    return tracer.graph, {"computed": computed(module.blocks[0](X))}


def gradients(model, module):
    """A backward pass, a gradient that is read, and one that is changed; a line without gradients."""
    with model.trace(X) as tracer:
        hidden = model.blocks[0].output
        with torch.no_grad():
            scale = hidden.abs().sum()
        with (model.output.pow(2).sum() / scale).backward():
            model.blocks[1].output.grad[:, 0] = 0
            hidden.grad.save("gradient")
    seen = {}

    def track(output):
        seen["hidden"] = output
        output.retain_grad()

    def zero(gradient):
        gradient = gradient.clone()
        gradient[:, 0] = 0
        return gradient

    out = hooked(module, {"blocks.0": track, "blocks.1": lambda output: output.register_hook(zero) and None})
    (out.pow(2).sum() / seen["hidden"].detach().abs().sum()).backward()
    return tracer.graph, {"gradient": seen["hidden"].grad}


def invokes(model, module):
    """Two prompts, of which one takes what passes in the other; a skipped module, one that is called, its weight."""
    with model.trace() as tracer:
        with tracer.invoke(X[:1]):
            other = model.blocks[1].output
        with tracer.invoke(X[1:]):
            model.blocks[0].down.skip(model.blocks[0].down.weight.sum() + torch.zeros(2, 8))
            model.blocks[1].output[:] = other
            model.output.save("out")
            model.head(model.blocks[0].output).save("early")
    source = module.blocks[1](module.blocks[0](X[:1]))
    early = X[1:] + module.blocks[0].down.weight.sum()
    return tracer.graph, {"out": module.head(module.blocks[2](source)).expand(2, 5), "early": module.head(early)}


MAKERS = (steering, operations, gradients, invokes)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for maker in MAKERS:
        module = Blocks()
        graph, wanted = maker(Model(module), module)
        graph.save(folder / f"{maker.__name__}.loupe")
        wanted = {name: value.detach().contiguous() for name, value in wanted.items()}
        save_file(wanted, folder / f"{maker.__name__}.safetensors", {"torch": torch.__version__})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
