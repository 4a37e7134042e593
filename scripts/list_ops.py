"""Print `loupe/graph/opset_table.py` anew from torch's own listing of overridable functions."""

import textwrap
import warnings

import torch
from torch.overrides import get_ignored_functions, get_overridable_functions

REFUSED_PARTS = (
    "quant", "fbgemm", "miopen", "mkldnn", "cudnn", "storage", "data_ptr", "_copy_", "sym_", "fake_", "batch_norm_",
    "pin_memory", "is_pinned", "share", "as_strided", "resize", "record_stream", "register_", "module_load",
    "apply_", "map_", "map2_", "backward", "retain_grad", "requires_grad", "backend", "sparse", "hsmm", "hspmm",
    "dsmm", "smm", "spmm", "saddmm", "row_indices", "col_indices", "q_scale", "q_zero", "q_per", "qscheme",
    "int_repr", "coalesce", "lobpcg", "autocast", "has_torch", "set_", "to_mkldnn", "is_shared", "cuda", "ipu",
    "xpu", "mtia", "maia", "reinforce", "native_", "rnn_", "lstm", "gru", "get_device", "names", "rename", "refine",
    "align_", "hash_tensor", "dim_order", "item", "tolist", "numpy", "volatile", "data", "slice_inverse",
    "is_distributed", "is_inference", "conv_tbc", "multi_head_attention_forward", "boolean_dispatch",
    "handle_torch", "assert_int", "namedtensor", "is_nonzero", "with_distance", "dense",
)  # fmt: skip
SPARSE_ONLY = {"indices", "values"}
KEPT = {"index_copy", "index_copy_", "cuda", "quantile", "nanquantile", "flipud", "vander"}
VIEWS = set(
    "adjoint broadcast_tensors broadcast_to chunk conj contiguous detach diagonal dsplit expand expand_as flatten "
    "hsplit imag moveaxis movedim narrow permute positive ravel real reshape reshape_as resolve_conj resolve_neg "
    "select split split_with_sizes squeeze swapaxes swapdims t tensor_split to transpose type type_as unbind "
    "unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex "
    "view_as_real vsplit cuda float double half bfloat16 long int short bool byte char cdouble cfloat chalf cpu "
    "atleast_1d atleast_2d atleast_3d meshgrid dropout alpha_dropout dropout1d dropout2d dropout3d "
    "feature_alpha_dropout feature_dropout nan_to_num block_diag "
    "conj_physical einsum cartesian_prod index T H mT mH sum_to_size pad".split()
)
RANDOM = set(
    "alpha_dropout bernoulli binomial dropout dropout1d dropout2d dropout3d feature_alpha_dropout feature_dropout "
    "fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d "
    "fractional_max_pool3d_with_indices gumbel_softmax multinomial poisson rand_like randint_like randn_like rrelu "
    "rrelu_ bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_ "
    "scaled_dot_product_attention".split()
)


def names(functions: list, prefix: str) -> set[str]:
    """Public names of the functions of one namespace that loupe allows."""
    found = set()
    for function in functions:
        name = getattr(function, "__name__", "")
        name = name.removeprefix(prefix)
        if not name or name.startswith("_"):
            continue
        refused = any(part in (f"{name}_" if part.endswith("_") else name) for part in REFUSED_PARTS)
        if name in KEPT or not refused:
            found.add(name)
    return found


def main() -> None:
    """Write the table to standard output."""
    warnings.simplefilter("ignore")
    listing = get_overridable_functions()
    factories = {"rand_like", "randn_like", "randint_like", "zeros_like", "ones_like", "empty_like", "full_like"}
    spaces = {
        "torch": names(listing[torch] + listing[torch.functional], "") | factories,
        "nn.functional": {n for n in names(listing[torch.nn.functional], "") if hasattr(torch.nn.functional, n)}
        | {
            "linear",
            "gelu",
            "scaled_dot_product_attention",
            "one_hot",
            "pad",
            "logsigmoid",
            "hardswish",
            "hardsigmoid",
            "tanh",
            "sigmoid",
            "threshold",
            "softplus",
        },
        "linalg": names(listing[torch.linalg], "linalg_"),
        "fft": names(listing[torch.fft], "fft_"),
        "special": names(listing[torch.special], "special_"),
    }
    spaces["torch"] = {n for n in spaces["torch"] if hasattr(torch, n)}
    tensor = names(listing[torch.Tensor], "") | {n for n in dir(torch.Tensor) if n in VIEWS or n.startswith("new_")}
    spaces["Tensor"] = {n for n in tensor - SPARSE_ONLY if callable(getattr(torch.Tensor, n, None))}
    ignored = {getattr(f, "__name__", "") for f in get_ignored_functions()}
    print('"""The allowed torch functions by namespace and effect; written by `scripts/list_ops.py`, not by hand."""\n')
    print("TABLE: dict[str, dict[str, str]] = {")
    for space, all_names in spaces.items():
        kinds: dict[str, list[str]] = {"pure": [], "view": [], "inplace": [], "random": []}
        for name in sorted(all_names):
            if space in ("torch", "nn.functional") and name.endswith("_"):
                continue
            base = name.rstrip("_")
            if base.endswith("ed") and name in ignored:
                continue
            kind = (
                "inplace" if name.endswith("_") else "random" if name in RANDOM else "view" if name in VIEWS else "pure"
            )
            kinds[kind].append(name)
        print(f'    "{space}": {{')
        for kind, members in kinds.items():
            if not members:
                continue
            text = "\n".join(textwrap.wrap(" ".join(members), 108, initial_indent=" " * 12, subsequent_indent=" " * 12))
            print(f'        "{kind}": """\n{text}\n        """,')
        print("    },")
    print("}")


if __name__ == "__main__":
    main()
