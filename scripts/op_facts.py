"""State by hand what torch does not say of its functions: effects, costs, and what untyped ones take.

The tests of the table compare these statements with what plain torch does. A name is that of a function in every
namespace, or a whole one (`Tensor.unfold`).
"""

# Public functions of data that torch's listing of overridable functions lacks, or has under another name.
ADDED = {
    "torch": """
        fill normal rand_like randint_like randn_like vander zeros_like ones_like full_like
    """,
    "nn.functional": """
        celu_ elu_ hardsigmoid hardswish hardtanh_ leaky_relu_ logsigmoid rrelu_ selu_ sigmoid tanh threshold threshold_
    """,
    "Tensor": "new_full new_ones new_tensor new_zeros stride unflatten",
    "linalg": "",
    "fft": "",
    "special": "",
}

VIEWS = set(
    """
    adjoint alpha_dropout atleast_1d atleast_2d atleast_3d bfloat16 bool broadcast_tensors broadcast_to byte
    cartesian_prod cdouble cfloat chalf char chunk conj conj_physical contiguous cpu cuda detach diagonal double dropout
    dropout1d dropout2d dropout3d dsplit einsum expand expand_as
    feature_alpha_dropout feature_dropout flatten float
    half hsplit imag int long meshgrid moveaxis movedim narrow permute positive ravel real reshape
    reshape_as resolve_conj resolve_neg select short split split_with_sizes squeeze sum_to_size swapaxes swapdims t
    tensor_split to transpose type type_as unbind unflatten unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze view view_as view_as_complex view_as_real vsplit Tensor.unfold Tensor.index torch.histogramdd
    """.split()
)
# Views of several of their arguments.
VIEWS_OF_ALL = set(
    "atleast_1d atleast_2d atleast_3d broadcast_tensors cartesian_prod einsum histogramdd meshgrid".split()
)
RANDOM = set(
    """
    alpha_dropout bernoulli binomial dropout dropout1d dropout2d dropout3d feature_alpha_dropout feature_dropout
    fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices
    gru gumbel_softmax lstm multi_head_attention_forward multinomial normal pca_lowrank poisson rand_like randint_like
    randn_like rnn_relu rnn_tanh rrelu scaled_dot_product_attention svd_lowrank
    """.split()
)
DRAWING = set("bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ rrelu_ uniform_".split())
# The size of the result depends on the data: a run on meta tensors cannot tell it.
UNBOUNDED = set(
    """
    argwhere bincount lstsq masked_select nonzero one_hot repeat_interleave tensor_split unique unique_consecutive
    """.split()
)

# What answers from the shape, dtype or layout alone; views are free as well.
FREE = set(
    """
    dim element_size is_complex is_conj is_contiguous is_floating_point is_neg is_same_size is_signed ndimension
    nelement numel size stride
    """.split()
)
# Views that may have to copy.
COPYING = set(
    """
    bfloat16 bool byte cdouble cfloat chalf char conj_physical contiguous cpu cuda double flatten float half int long
    ravel reshape reshape_as resolve_conj resolve_neg short sum_to_size to type type_as
    """.split()
)
# More than a few operations for each element: products, orders, transforms.
PRODUCT = set(
    """
    addbmm addbmm_ addmm addmm_ addmv addmv_ argsort baddbmm baddbmm_ bilinear bmm cartesian_prod cdist chain_matmul
    combinations conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution corrcoef
    cov dot einsum fold gru gru_cell histogramdd inner isin istft kron kthvalue linear linear_cross_entropy
    lstm lstm_cell matmul median mm mode msort multi_head_attention_forward multi_dot mv nanmedian nanquantile pdist
    quantile rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention searchsorted sort stft tensordot
    topk unique unique_consecutive vdot vecdot nn.functional.unfold
    """.split()
)
CUBIC = set(
    """
    cholesky cholesky_ex cholesky_inverse cholesky_solve cond det eig eigh eigvals eigvalsh geqrf householder_product
    inv inv_ex inverse ldl_factor ldl_factor_ex ldl_solve logdet lstsq lu lu_factor lu_factor_ex lu_solve lu_unpack
    matrix_exp matrix_norm matrix_power matrix_rank norm nuclear_norm orgqr ormqr pca_lowrank pinv pinverse qr slogdet
    solve solve_ex solve_triangular svd svd_lowrank svdvals tensorinv tensorsolve triangular_solve
    """.split()
)

# Functions behind one public name, each of which takes what the public one takes.
BEHIND = {
    "torch.unique": ["_unique_impl"],
    "torch.unique_consecutive": ["_unique_consecutive_impl"],
    "nn.functional.threshold": ["_threshold"],
}
# What untyped functions take, in the words of the table.
FORMS = {
    "torch.atleast_1d": "tensors...=tensor,list",
    "torch.atleast_2d": "tensors...=tensor,list",
    "torch.atleast_3d": "tensors...=tensor,list",
    "torch.block_diag": "tensors...=tensor",
    "torch.broadcast_tensors": "tensors...=tensor,list",
    "torch.cartesian_prod": "tensors...=tensor",
    "torch.chain_matmul": "matrices...=tensor",
    "torch.einsum": "equation=string,tensor operands...=tensor,list,number,ellipsis",
    "torch.lu": "A=tensor pivot=bool,number get_infos=bool,number out=none",
    "torch.meshgrid": "tensors...=tensor,list * indexing=string,none",
    "torch.tensordot": "a=tensor b=tensor dims=number,list,tensor out=none",
    "torch.cdist": "x1=tensor x2=tensor p=number compute_mode=string",
    "torch.norm": "input=tensor p=number,string,none dim=number,list,none keepdim=bool,number out=none "
    "dtype=dtype,none",
    "nn.functional.softsign": "input=tensor",
    "nn.functional.tanhshrink": "input=tensor",
    "nn.functional.tanh": "input=tensor",
    "nn.functional.sigmoid": "input=tensor",
    "nn.functional.logsigmoid": "input=tensor",
    "special.polygamma": "n=number input=tensor",
    "Tensor.new_tensor": "self=tensor data=tensor,number,bool,list * dtype=none,dtype device=number,string,none,device "
    "requires_grad=bool",
    "Tensor.norm": "self=tensor p=number,string,none dim=number,list,none keepdim=bool,number dtype=dtype,none",
    "Tensor.unique": "self=tensor sorted=bool,number return_inverse=bool,number return_counts=bool,number "
    "dim=number,none",
    "Tensor.unique_consecutive": "self=tensor return_inverse=bool,number return_counts=bool,number dim=number,none",
    "Tensor.index": "self=tensor indices=tensor,none,list",
}
for _leaf in "bfloat16 bool byte cdouble cfloat chalf char double float half int long short".split():
    FORMS[f"Tensor.{_leaf}"] = "self=tensor * memory_format=none,memory_format"
# Arguments through which a function would change another tensor than its first: these have to be None.
CHANGING = {
    "torch.instance_norm": {"running_mean", "running_var"},
    "nn.functional.instance_norm": {"running_mean", "running_var"},
    "nn.functional.embedding": {"max_norm"},
    "nn.functional.embedding_bag": {"max_norm"},
}
