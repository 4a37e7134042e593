"""Say why a function of torch may not stand in a graph that leaves the process, and what to use instead.

Every name here is spelled out: a reader of files trusts that what is refused is what stands here, and that what is
allowed stands in the table. Names that begin with an underscore are torch's own and refused as a whole.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Refusal(NamedTuple):
    """Why something is refused, and what to use instead."""

    fact: str
    remedy: str


REASONS: dict[str, Refusal] = {
    "memory": Refusal(
        "it gives a pointer, a storage or a window on memory beyond the tensor",
        "use indexing, reshape, expand or unfold, which stay within the tensor",
    ),
    "uninitialized": Refusal(
        "what it gives holds whatever was in that memory before", "use zeros_like, full_like, new_zeros or new_full"
    ),
    "unchecked": Refusal(
        "it does not check the indices that it is given, and could read memory beyond its tensors",
        "use nn.functional.cross_entropy, or compute the loss after the run",
    ),
    "callable": Refusal(
        "it takes a Python function or a class, and a graph has none", "write what the function does with operations"
    ),
    "process": Refusal(
        "it reads or changes files, threads, or the state of the process",
        "do it outside the block, and use the values there",
    ),
    "factory": Refusal(
        "it makes a tensor from numbers alone", "make the tensor outside the block: the graph holds it as a constant"
    ),
    "device": Refusal(
        "it is about a device or a backend, not about data", "use x.to(device); x.device tells where a value is"
    ),
    "quantized": Refusal("it is about quantized tensors", "use the values as floating-point numbers"),
    "sparse": Refusal("it is about sparse or nested layouts", "use dense tensors"),
    "gradients": Refusal(
        "it changes or tells what autograd tracks",
        "in a block, use x.grad, x.requires_grad_(), x.retain_grad() and loss.backward()",
    ),
    "statistics": Refusal(
        "it may change its running statistics in place",
        "call the model's own module, or compute (x - mean) * (var + eps).rsqrt()",
    ),
    "names": Refusal("it is about named dimensions", "use the numbers of the dimensions"),
    "peek": Refusal(
        "it looks at a value in Python", "let the graph give the tensor, and look at it after the run"
    ),
    "kernel": Refusal("it is a kernel beneath another function", "use the public function above it"),
    "symbolic": Refusal("it is for tracing with symbolic sizes", "use the function that it stands for"),
    "reflected": Refusal(
        "it is an operator with its sides changed", "use the operation of `operator` with the two values in that order"
    ),
    "private": Refusal("its name begins with an underscore: it is internal", "use the public function or attribute"),
}  # fmt: skip

_NAMES: dict[str, dict[str, str]] = {
    "memory": {
        "torch": "as_strided as_strided_ as_strided_copy as_strided_scatter",
        "Tensor": """
            as_strided as_strided_ as_strided_scatter const_data_ptr data data_ptr dim_order is_set_to resize resize_
            resize_as resize_as_ set_ storage storage_offset storage_type untyped_storage __dlpack__ __dlpack_device__
        """,
    },
    "uninitialized": {
        "torch": "empty empty_like empty_permuted empty_strided",
        "Tensor": "new new_empty new_empty_strided",
    },
    "unchecked": {"torch": "ctc_loss", "nn.functional": "ctc_loss"},
    "callable": {
        "torch": "cond lobpcg vmap while_loop",
        "nn.functional": "triplet_margin_with_distance_loss",
        "Tensor": "apply_ as_subclass map2_ map_",
    },
    "process": {
        "torch": """
            autocast compile fork from_dlpack from_file from_numpy frombuffer get_rng_state initial_seed load
            manual_seed save seed set_default_device set_default_dtype set_grad_enabled set_num_threads set_printoptions
            set_rng_state use_deterministic_algorithms
        """,
        "Tensor": """
            module_load share_memory_ is_shared name __array__ __array_wrap__ __deepcopy__ __reduce_ex__ __setstate__
        """,
    },
    "factory": {
        "torch": """
            arange as_tensor asarray bartlett_window blackman_window eye full hamming_window hann_window kaiser_window
            linspace logspace ones rand randint randn randperm range scalar_tensor tensor tril_indices triu_indices
            zeros
        """,
        "fft": "fftfreq rfftfreq",
    },
    "device": {
        "torch": """
            get_device is_distributed is_inference miopen_batch_norm miopen_convolution miopen_convolution_add_relu
            miopen_convolution_relu miopen_convolution_transpose miopen_depthwise_convolution miopen_rnn
        """,
        "Tensor": """
            get_device ipu is_distributed is_inference is_ipu is_maia is_mkldnn is_mps is_mtia is_pinned
            is_vulkan is_xla is_xpu mtia pin_memory record_stream to_mkldnn xpu
        """,
    },
    "quantized": {
        "torch": """
            choose_qparams_optimized dequantize fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation
            fbgemm_linear_int8_weight fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_quantize_weight
            fbgemm_pack_gemm_matrix_fp16 fbgemm_pack_quantized_matrix fused_moving_avg_obs_fake_quant int_repr
            q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point quantize_per_channel
            quantize_per_tensor quantize_per_tensor_dynamic quantized_batch_norm quantized_gru_cell quantized_lstm_cell
            quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d quantized_rnn_relu_cell
            quantized_rnn_tanh_cell
        """,
        "Tensor": """
            dequantize int_repr q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale
            q_zero_point qscheme
        """,
    },
    "sparse": {
        "torch": """
            ccol_indices_copy col_indices_copy crow_indices_copy dsmm hsmm hspmm indices_copy row_indices_copy saddmm
            smm spmm sspaddmm values_copy
        """,
        "Tensor": """
            ccol_indices coalesce col_indices crow_indices dense_dim indices is_coalesced
            is_sparse_csr resize_as_sparse_ row_indices smm sparse_dim sparse_mask sparse_resize_
            sparse_resize_and_clear_ sspaddmm to_dense to_padded_tensor to_sparse to_sparse_bsc to_sparse_bsr
            to_sparse_coo to_sparse_csc to_sparse_csr values
        """,
    },
    "gradients": {
        "Tensor": """
            backward grad grad_dtype grad_fn output_nr register_hook register_post_accumulate_grad_hook requires_grad_
            retain_grad retains_grad volatile
        """,
    },
    "statistics": {"torch": "batch_norm native_batch_norm", "nn.functional": "batch_norm"},
    "names": {"Tensor": "align_as align_to names refine_names rename rename_"},
    "peek": {
        "torch": "is_nonzero",
        "Tensor": """
            is_nonzero item numpy tolist __bool__ __complex__ __contains__ __float__ __format__ __index__ __int__
            __len__ __long__ __nonzero__ __repr__ __reversed__
        """,
    },
    "kernel": {
        "torch": """
            batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
            batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats grid_sampler grid_sampler_2d
            grid_sampler_3d native_channel_shuffle native_dropout native_group_norm native_layer_norm native_norm
            slice_inverse
        """,
        "nn.functional": "native_channel_shuffle",
        "Tensor": "slice_inverse",
    },
    "symbolic": {"torch": "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sum"},
    "reflected": {
        "Tensor": """
            __radd__ __rand__ __rdiv__ __rfloordiv__ __rlshift__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__
            __rrshift__ __rsub__ __rtruediv__ __rxor__
        """,
    },
}

# What to use instead, where the name itself can say it better than its reason.
_REMEDIES = {
    "Tensor.data": "use x.detach(), which shares the memory as well",
    "Tensor.grad": "read x.grad in a block: it is a site of its own",
    "Tensor.numpy": "let the graph give the tensor, and call .numpy() after the run",
    "Tensor.__reversed__": "use Tensor.flip",
    "Tensor.dim_order": "use Tensor.is_contiguous",
    "torch.lobpcg": "use linalg.eigh",
    "torch.native_batch_norm": "call the model's own module, or compute (x - mean) * (var + eps).rsqrt()",
    "torch.grid_sampler": "use nn.functional.grid_sample",
    "torch.grid_sampler_2d": "use nn.functional.grid_sample",
    "torch.grid_sampler_3d": "use nn.functional.grid_sample",
    "torch.native_channel_shuffle": "use torch.channel_shuffle",
    "nn.functional.native_channel_shuffle": "use nn.functional.channel_shuffle",
    "torch.native_dropout": "use nn.functional.dropout",
    "torch.native_group_norm": "use nn.functional.group_norm",
    "torch.native_layer_norm": "use nn.functional.layer_norm",
    "torch.native_norm": "use linalg.vector_norm",
    "torch.rand": "use torch.rand_like, or a constant",
    "torch.randn": "use torch.randn_like, or a constant",
    "torch.randint": "use torch.randint_like, or a constant",
    "nn.functional.triplet_margin_with_distance_loss": "use nn.functional.triplet_margin_loss",
}

_FIELD = Refusal("this attribute is not one that a graph may read", 'reach it as an item: output["field"] or output[0]')


@cache
def refused() -> dict[str, str]:
    """The names that are refused, and the key of the reason in REASONS.

    >>> refused()["torch.as_strided"]
    'memory'
    """
    found: dict[str, str] = {}
    for reason, spaces in _NAMES.items():
        for space, text in spaces.items():
            for leaf in text.split():
                found[f"{space}.{leaf}"] = reason
    return found


def why_refused(name: str) -> Refusal | None:
    """Why an operation may not stand in a file, and what to use instead; None where nothing is said about it.

    >>> why_refused("Tensor.data_ptr").fact
    'it gives a pointer, a storage or a window on memory beyond the tensor'
    """
    reason = refused().get(name)
    if reason is None and name.rpartition(".")[2].startswith("_"):
        reason = "private"
    if reason is None:
        return None
    found = REASONS[reason]
    return found._replace(remedy=_REMEDIES.get(name, found.remedy))


def why_refused_attribute(name: str) -> Refusal:
    """Why an attribute may not be read by a graph in a file, and what to use instead.

    >>> why_refused_attribute("grad_fn").fact
    'it changes or tells what autograd tracks'
    """
    return why_refused(f"Tensor.{name}") or _FIELD
