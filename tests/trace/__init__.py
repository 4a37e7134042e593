"""Hold the expressions that values of a block, and saved values after it, are both tried on beside plain tensors."""

import math
import operator

import torch
import torch.nn.functional as F
from torch import nn

CONST = torch.linspace(-1.5, 2.0, 24).reshape(3, 8)
WEIGHT = torch.linspace(-1.0, 1.0, 40).reshape(5, 8)
IMAGE = torch.linspace(0.0, 1.0, 48).reshape(1, 1, 6, 8)
INDEX = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1], [2, 1, 0, 2, 1, 0, 2, 1], [1, 1, 1, 0, 0, 0, 2, 2]])
PLACES = torch.tensor([2, 0, 1])


def value() -> torch.Tensor:
    """A fresh float tensor [3, 8] with negative and positive numbers."""
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(7))


def _in_place(function, other):
    def apply(v):
        changed = v.clone()
        return function(changed, other(v) if callable(other) else other)

    return apply


def _set_item(key, new):
    def apply(v):
        changed = v.clone()
        changed[key(v) if callable(key) else key] = new(v) if callable(new) else new
        return changed

    return apply


_BINARY = "add sub mul truediv floordiv mod eq ne lt le gt ge".split()
_OPERATORS = {
    **{f"v {n} v": (lambda v, f=getattr(operator, n): f(v, v.flip(0))) for n in _BINARY},
    **{f"v {n} 2.5": (lambda v, f=getattr(operator, n): f(v, 2.5)) for n in _BINARY},
    **{f"2.5 {n} v": (lambda v, f=getattr(operator, n): f(2.5, v)) for n in _BINARY},
    **{f"v {n} tensor": (lambda v, f=getattr(operator, n): f(v, CONST)) for n in _BINARY},
    **{f"tensor {n} v": (lambda v, f=getattr(operator, n): f(CONST, v)) for n in _BINARY},
    **{
        f"v {n}= tensor": _in_place(getattr(operator, f"i{n}"), CONST)
        for n in "add sub mul truediv floordiv mod".split()
    },
    **{f"bools {n}": (lambda v, f=getattr(operator, n): f(v > 0, CONST > 0)) for n in ("and_", "or_", "xor")},
    **{f"bools r{n}": (lambda v, f=getattr(operator, n): f(CONST > 0, v > 0)) for n in ("and_", "or_", "xor")},
    **{
        f"bools i{n}": _in_place(lambda a, b, f=getattr(operator, f"i{n}"): f(a > 0, b), CONST > 0)
        for n in ("and", "or", "xor")
    },
    "neg": lambda v: -v,
    "pos": lambda v: +v,
    "abs": lambda v: abs(v),
    "invert": lambda v: ~(v > 0),
    "v ** 2": lambda v: v**2,
    "2.0 ** v": lambda v: 2.0**v,
    "tensor ** v": lambda v: CONST.abs() ** v,
    "v **= 2": _in_place(operator.ipow, 2),
    "v @ tensor": lambda v: v @ WEIGHT.T,
    "tensor @ v": lambda v: WEIGHT @ v.T,
    "v << 1": lambda v: (v * 8).int() << 1,
    "1 << v": lambda v: 1 << v.abs().int(),
    "v >> 1": lambda v: (v * 8).int() >> 1,
    "v <<= 1": lambda v: operator.ilshift((v * 8).int(), 1),
}
_ITEMS = {
    "v[0]": lambda v: v[0],
    "v[-1, 1:5:2]": lambda v: v[-1, 1:5:2],
    "v[..., None]": lambda v: v[..., None],
    "v[tensor]": lambda v: v[PLACES],
    "v[list]": lambda v: v[[0, 2]],
    "v[mask of v]": lambda v: v[v > 0],
    "v[:, argmax of v]": lambda v: v[:, v[0].argmax()],
    "v[slice up to an item of v]": lambda v: v[: (v > 0).sum(0)[0] % 3 + 1],
    "tensor[v]": lambda v: CONST[v.argmax(0) % 3],
    "v[0] = 1": _set_item(0, 1.0),
    "v[mask of v] = 0": _set_item(lambda v: v > 0, 0.0),
    "v[:, 1:3] = v": _set_item((slice(None), slice(1, 3)), lambda v: v[:, 3:5]),
    "v[tensor] = tensor": _set_item(PLACES, CONST),
    "v[..., 0] = item of v": _set_item((Ellipsis, 0), lambda v: v.max()),
    "unpacked rows": lambda v: [*v],
    "unpacked chunks": lambda v: (lambda a, b: a * b)(*v.chunk(2, dim=1)),
    "unpacked split": lambda v: (lambda a, b, c: (c, a, b))(*v.split([1, 3, 4], dim=1)),
    "unpacked max": lambda v: (lambda values, indices: (indices, values))(*v.max(dim=1)),
    "topk().values": lambda v: v.topk(2).values,
    "topk().indices": lambda v: v.topk(2).indices,
    "sort()[1]": lambda v: v.sort()[1],
    "torch.max(...).values": lambda v: torch.max(v, 1).values,
    "unbind": lambda v: torch.unbind(v)[1],
    "T": lambda v: v.T,
    "mT": lambda v: v.mT,
    "real": lambda v: v.real,
}
_METHODS = {
    f"v.{name}{args}": (lambda v, name=name, args=args: getattr(v, name)(*args))
    for name, args in [
        ("softmax", (-1,)), ("mean", (0,)), ("sum", ()), ("std", ()), ("norm", ()), ("argmax", (1,)),
        ("view", (-1,)), ("reshape", (2, 12)), ("transpose", (0, 1)), ("permute", (1, 0)), ("unsqueeze", (1,)),
        ("expand", (2, 3, 8)), ("repeat", (2, 1)), ("flatten", ()), ("cumsum", (1,)), ("clamp", (-0.5, 0.5)),
        ("masked_fill", (CONST > 0, 9.0)), ("gather", (0, INDEX)), ("scatter", (0, INDEX, 4.0)),
        ("to", (torch.float64,)),
        ("double", ()), ("int", ()), ("type_as", (INDEX,)), ("new_zeros", (2, 3)), ("where", (CONST > 0, CONST)),
        ("roll", (1,)), ("tril", ()), ("index_select", (0, PLACES)), ("lerp", (CONST, 0.3)), ("any", ()), ("all", ()),
        ("logsumexp", (1,)), ("square", ()), ("quantile", (0.3,)), ("median", ()), ("var", (1,)), ("diff", ()),
        ("unfold", (1, 3, 2)), ("narrow", (1, 2, 3)), ("diagonal", ()), ("squeeze", ()),
    ]
}  # fmt: skip
_IN_PLACE_METHODS = {
    f"v.{name}{args}": _in_place(lambda v, args, name=name: getattr(v, name)(*args), args)
    for name, args in [
        ("add_", (CONST,)), ("mul_", (2,)), ("zero_", ()), ("fill_", (3.0,)), ("clamp_", (-0.1, 0.1)), ("neg_", ()),
        ("copy_", (CONST,)), ("masked_fill_", (CONST > 0, 7.0)), ("relu_", ()), ("index_fill_", (0, PLACES, 2.0)),
        ("scatter_", (0, INDEX, 1.0)), ("t_", ()), ("unsqueeze_", (0,)), ("exp_", ()), ("sub_", (CONST,)),
    ]
}  # fmt: skip
_FUNCTIONS = {
    "softmax": lambda v: torch.softmax(v, -1),
    "cat": lambda v: torch.cat([v, CONST, v[:1]]),
    "stack": lambda v: torch.stack((CONST, v, v)),
    "where": lambda v: torch.where(v > 0, v, CONST),
    "where number": lambda v: torch.where(CONST > 0, v, 0.0),
    "einsum": lambda v: torch.einsum("bi,ci->bc", v, WEIGHT),
    "einsum both": lambda v: torch.einsum("bi,bj->ij", v, v),
    "matmul": lambda v: torch.matmul(WEIGHT, v.T),
    "tensordot": lambda v: torch.tensordot(v, CONST, dims=([0, 1], [0, 1])),
    "bmm": lambda v: torch.bmm(v[None], v.T[None]),
    "outer": lambda v: torch.outer(v[0], v[1]),
    "topk": lambda v: torch.topk(v, 3, dim=1)[0],
    "gather": lambda v: torch.gather(v, 0, INDEX),
    "scatter": lambda v: torch.scatter(CONST, 0, INDEX, v),
    "index_add": lambda v: torch.index_add(CONST, 0, PLACES, v),
    "zeros_like": lambda v: torch.zeros_like(v),
    "full_like": lambda v: torch.full_like(v, 2.0),
    "allclose": lambda v: torch.allclose(v, v.clone()),
    "cdist": lambda v: torch.cdist(v, CONST),
    "bucketize": lambda v: torch.bucketize(v, torch.tensor([-1.0, 0.0, 1.0])),
    "meshgrid": lambda v: torch.meshgrid(v[0], v[1], indexing="ij")[1],
    "broadcast_tensors": lambda v: torch.broadcast_tensors(v, CONST[:1])[1],
    "split": lambda v: torch.split(v, 3, dim=1)[2],
    "histc": lambda v: torch.histc(v, 4),
    "unique": lambda v: torch.unique((v * 2).round()),
    "aminmax": lambda v: torch.aminmax(v).max,
    "var_mean": lambda v: torch.var_mean(v, dim=1)[0],
    "cosine_similarity": lambda v: torch.cosine_similarity(v, CONST, dim=1),
    "linalg.norm": lambda v: torch.linalg.norm(v, dim=1),
    "linalg.svdvals": lambda v: torch.linalg.svdvals(v),
    "linalg.qr": lambda v: torch.linalg.qr(v).R.abs(),
    "linalg.solve": lambda v: torch.linalg.solve(v @ v.T, CONST),
    "linalg.pinv": lambda v: torch.linalg.pinv(v),
    "linalg.matrix_norm": lambda v: torch.linalg.matrix_norm(v),
    "fft.fft": lambda v: torch.fft.fft(v).real,
    "fft.rfft": lambda v: torch.fft.irfft(torch.fft.rfft(v), n=8),
    "special.expit": lambda v: torch.special.expit(v),
    "special.logsumexp": lambda v: torch.special.logsumexp(v, 0),
    "F.relu": lambda v: F.relu(v),
    "F.gelu": lambda v: F.gelu(v, approximate="tanh"),
    "F.silu": lambda v: F.silu(v),
    "F.hardswish": lambda v: F.hardswish(v),
    "F.hardsigmoid": lambda v: F.hardsigmoid(v),
    "F.softmax": lambda v: F.softmax(v, dim=0),
    "F.log_softmax": lambda v: F.log_softmax(v, dim=-1),
    "F.layer_norm": lambda v: F.layer_norm(v, (8,), WEIGHT[0], WEIGHT[1]),
    "F.linear": lambda v: F.linear(v, WEIGHT),
    "F.cross_entropy": lambda v: F.cross_entropy(v, PLACES),
    "F.mse_loss": lambda v: F.mse_loss(v, CONST),
    "F.kl_div": lambda v: F.kl_div(v.log_softmax(-1), CONST.softmax(-1), reduction="batchmean"),
    "F.normalize": lambda v: F.normalize(v, dim=1),
    "F.one_hot": lambda v: F.one_hot(v.argmax(1), 8),
    "F.embedding": lambda v: F.embedding(v.argmax(1), CONST.T.contiguous()),
    "F.pad": lambda v: F.pad(v, (1, 2)),
    "F.conv2d": lambda v: F.conv2d(IMAGE, v[None, None, :2, :2]),
    "F.max_pool1d": lambda v: F.max_pool1d(v, 2),
    "F.scaled_dot_product_attention": lambda v: F.scaled_dot_product_attention(v[None], CONST[None], v[None]),
    "F.glu": lambda v: F.glu(v, dim=1),
    "F.threshold": lambda v: F.threshold(v, 0.1, 20.0),
    "F.dropout off": lambda v: F.dropout(v, 0.5, training=False),
    "F.relu in place": _in_place(lambda v, on: F.relu(v, inplace=on), True),
    "out=": lambda v: torch.add(v, 1.0, out=torch.empty(3, 8)),
    "math.sqrt of a size": lambda v: v / math.sqrt(v.shape[-1]),
}
EXPRESSIONS = {
    **_OPERATORS,
    **_ITEMS,
    **_METHODS,
    **_IN_PLACE_METHODS,
    **{f"torch {name}": function for name, function in _FUNCTIONS.items()},
}


class Pass(nn.Module):
    """Two modules that hand on what they get, so that the value of each site is known; counts its passes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()
        self.weight = nn.Parameter(torch.zeros(()))
        self.passes = 0
        self.register_forward_pre_hook(Pass._count)

    def _count(self, _inputs):
        self.passes += 1

    def forward(self, x):
        return self.second(self.first(x.clone()))


def plain(result):
    """A result with proxies replaced by their values, through tuples and lists."""
    if type(result) in (tuple, list):
        return type(result)(plain(item) for item in result)
    return result.value if hasattr(type(result), "save") else result


def assert_same(found, wanted):
    """Equal in type of container, in dtype, shape and numbers."""
    if isinstance(wanted, (tuple, list)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, torch.Tensor):
        assert type(found) is type(wanted)
        torch.testing.assert_close(found, wanted, equal_nan=True)
    else:
        assert type(found) is type(wanted)
        assert found == wanted
