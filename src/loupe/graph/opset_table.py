"""The allowed torch functions: what they do, cost and take; written by `scripts/list_ops.py`, not by hand.

Each key is a namespace, an effect, a cost and marks; each entry has the parameters of the functions that follow them.
"""

TABLE: dict[str, str] = {
    "torch pure cubic": """
        (input=tensor upper=bool)
            cholesky cholesky_inverse
        (input=tensor input2=tensor upper=bool)
            cholesky_solve
        (input=tensor)
            det geqrf inverse logdet matrix_exp slogdet
        (A=tensor pivot=number,bool get_infos=number,bool out=none)
            lu
        (input=tensor LU_data=tensor LU_pivots=tensor)
            lu_solve
        (LU_data=tensor LU_pivots=tensor unpack_data=bool unpack_pivots=bool)
            lu_unpack
        (input=tensor n=number)
            matrix_power
        (input=tensor p=number,string,none dim=number,none,list keepdim=number,bool out=none dtype=none,dtype)
            norm
        (input=tensor dim/keepdim=number,bool,list keepdim=bool)
            nuclear_norm
        (input=tensor input2=tensor)
            orgqr
        (input=tensor input2=tensor input3=tensor left=bool transpose=bool)
            ormqr
        (input=tensor rcond=number)
            pinverse
        (input=tensor some=bool)
            qr
        (input=tensor some=bool compute_uv=bool)
            svd
        (input=tensor A=tensor upper=bool transpose=bool unitriangular=bool)
            triangular_solve
    """,
    "torch pure free": """
        (input=tensor)
            is_complex is_conj is_floating_point is_neg is_signed numel
        (input=tensor other=tensor)
            is_same_size
    """,
    "torch pure linear": """
        (input=tensor)
            abs absolute acos acosh alias_copy angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan
            atanh bitwise_not ceil cos cosh deg2rad detach_copy digamma erf erfc erfinv exp exp2 expm1 fix fliplr
            flipud floor frac frexp i0 isfinite isinf isnan isneginf isposinf isreal lgamma log log10 log1p log2
            logical_not neg negative rad2deg reciprocal relu rsqrt selu sgn sigmoid sign signbit sin sinc sinh sqrt
            square t_copy tan tanh trace trunc view_as_complex_copy view_as_real_copy
        (input=tensor output_size=number,list)
            adaptive_avg_pool1d adaptive_max_pool1d
        (input=tensor,number other/alpha=tensor,number other=tensor,number)
            add sub
        (input=tensor value/tensor1=tensor,number tensor1/tensor2=tensor tensor2=tensor)
            addcdiv addcmul
        (beta/input=tensor,number self/vec1=tensor alpha/vec2/vec1=tensor,number vec1/vec2=tensor vec2=tensor)
            addr
        (theta=tensor size=number,list align_corners=bool)
            affine_grid_generator
        (input=tensor dim=number,none,list keepdim=bool)
            all any
        (input=tensor other=tensor rtol=number atol=number equal_nan=bool)
            allclose isclose
        (input=tensor dim=number,list keepdim=bool)
            amax amin frobenius_norm logsumexp
        (input=tensor * dim=number,none keepdim=bool)
            aminmax
        (input=tensor other=tensor)
            arctan2 atan2 equal fmax fmin gcd hypot igamma igammac lcm ldexp logaddexp logaddexp2 logical_and
            logical_or logical_xor maximum minimum nextafter
        (input=tensor dim=number,none keepdim=bool)
            argmax argmin
        (input=tensor kernel_size=number,list stride=number,list padding=number,list ceil_mode=bool
        count_include_pad=bool)
            avg_pool1d
        (input=tensor target=tensor weight=tensor,none pos_weight=tensor,none reduction=number)
            binary_cross_entropy_with_logits
        (input=tensor,number other=tensor,number)
            bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor floor_divide mul multiply
            remainder true_divide xlogy
        (tensors...=tensor)
            block_diag
        (input=tensor,number boundaries=tensor * out_int32=bool right=bool)
            bucketize
        (tensors=tensor,list dim=number)
            cat concat concatenate stack
        (input=tensor alpha=number)
            celu
        (input=tensor groups=number)
            channel_shuffle
        (input=tensor min=tensor,number,none max=tensor,number,none)
            clamp clip
        (input=tensor max=tensor,number)
            clamp_max
        (input=tensor min=tensor,number)
            clamp_min
        (input=tensor * memory_format=none,memory_format)
            clone
        (tensors=tensor,list)
            column_stack dstack hstack row_stack vstack
        (real=tensor imag=tensor)
            complex
        (input=tensor pad=number,list value=number)
            constant_pad_nd
        (input=tensor other=tensor,number)
            copysign eq fmod ge greater greater_equal gt le less less_equal lt ne not_equal
        (input1=tensor input2=tensor target=tensor margin=number reduction=number)
            cosine_embedding_loss margin_ranking_loss
        (x1=tensor x2=tensor dim=number eps=number)
            cosine_similarity
        (input=tensor dim=number,none,list)
            count_nonzero
        (input=tensor other=tensor dim=number,none)
            cross
        (input=tensor dim=number)
            cummax cummin logcumsumexp unbind_copy unsqueeze_copy
        (input=tensor dim=number * dtype=none,dtype)
            cumprod cumsum
        (y=tensor x=tensor * dim=number dx=number)
            cumulative_trapezoid trapezoid
        (input=tensor diagonal=number)
            diag tril triu
        (input=tensor offset=number dim1=number dim2=number)
            diag_embed diagonal_copy
        (input=tensor offset=number)
            diagflat
        (input=tensor src=tensor offset=number dim1=number dim2=number)
            diagonal_scatter
        (input=tensor n=number dim=number prepend=tensor,none append=tensor,none)
            diff
        (input=tensor other=tensor p=number)
            dist
        (input=tensor,number other=tensor,number * rounding_mode=string,none)
            div divide
        (weight=tensor indices=tensor padding_idx=number scale_grad_by_freq=bool sparse=bool)
            embedding
        (weight=tensor indices=tensor offsets=tensor scale_grad_by_freq=bool mode=number sparse=bool
        per_sample_weights=tensor,none include_last_offset=bool padding_idx=number,none)
            embedding_bag
        (input=tensor size=number,list * implicit=bool)
            expand_copy
        (input=tensor scale=tensor zero_point=tensor axis=number quant_min=number quant_max=number)
            fake_quantize_per_channel_affine
        (input=tensor scale=tensor,number zero_point=tensor,number quant_min=number quant_max=number)
            fake_quantize_per_tensor_affine
        (input=tensor value=tensor,number)
            fill
        (input=tensor dims=number,list)
            flip permute_copy tile
        (input=tensor,number exponent=tensor,number)
            float_power pow
        (input=tensor fill_value=number * memory_format=none,memory_format dtype=none,dtype layout=none,layout
        device=number,string,none,device requires_grad=bool,none)
            full_like
        (input=tensor dim=number index=tensor * sparse_grad=bool)
            gather
        (input=tensor vec2=tensor)
            ger outer
        (input=tensor * spacing=tensor,number,none,list dim=number,none,list edge_order=number)
            gradient
        (input=tensor num_groups=number weight=tensor,none bias=tensor,none eps=number cudnn_enabled=bool)
            group_norm
        (input=tensor lambd=number)
            hardshrink
        (input=tensor dim=number,list * keepdim=bool mode=number)
            hash_tensor
        (input=tensor values=tensor)
            heaviside
        (input=tensor target=tensor margin=number reduction=number)
            hinge_embedding_loss
        (input=tensor bins=number min=number max=number)
            histc
        (input=tensor bins=tensor,number * weight=tensor,none density=bool range=number,none,list)
            histogram
        (input=tensor dim=number index=tensor source=tensor * alpha=number)
            index_add
        (input=tensor dim=number index=tensor source=tensor)
            index_copy
        (input=tensor dim=number index=tensor value=tensor,number)
            index_fill
        (input=tensor indices=tensor,none,list values=tensor accumulate=bool)
            index_put
        (input=tensor dim=number index=tensor source=tensor reduce=string * include_self=bool)
            index_reduce
        (input=tensor dim=number index=tensor)
            index_select
        (input=tensor weight=tensor,none bias=tensor,none running_mean=none running_var=none use_input_stats=bool
        momentum=number eps=number cudnn_enabled=bool)
            instance_norm
        (input=tensor target=tensor reduction=number * log_target=bool)
            kl_div
        (input=tensor normalized_shape=number,list weight=tensor,none bias=tensor,none eps=number cudnn_enable=bool)
            layer_norm
        (input=tensor end=tensor weight=tensor,number)
            lerp
        (input=tensor dim=number dtype=none,dtype)
            log_softmax softmax
        (input=tensor eps=number,none)
            logit
        (input=tensor mask=tensor value=tensor,number)
            masked_fill
        (input=tensor mask=tensor source=tensor)
            masked_scatter
        (input=tensor other/dim=tensor,number keepdim=bool)
            max min
        (input=tensor kernel_size=number,list stride=number,list padding=number,list dilation=number,list
        ceil_mode=bool)
            max_pool1d max_pool1d_with_indices max_pool2d max_pool3d
        (input=tensor dim=number,none,list keepdim=bool * dtype=none,dtype)
            mean nanmean nansum sum
        (input=tensor p=number)
            mvlgamma
        (input=tensor nan=number,none posinf=number,none neginf=number,none)
            nan_to_num
        (input=tensor dim=number start=number length=number)
            narrow_copy
        (input=tensor * size=number fill_value=number)
            nonzero_static
        (v=tensor pow=number dim=number)
            norm_except_dim
        (input=tensor * memory_format=none,memory_format dtype=none,dtype layout=none,layout
        device=number,string,none,device requires_grad=bool,none)
            ones_like zeros_like
        (x1=tensor x2=tensor p=number eps=number keepdim=bool)
            pairwise_distance
        (input=tensor upscale_factor=number)
            pixel_shuffle
        (input=tensor downscale_factor=number)
            pixel_unshuffle
        (input=tensor target=tensor log_input=bool full=bool eps=number reduction=number)
            poisson_nll_loss
        (abs=tensor angle=tensor)
            polar
        (n=number input=tensor)
            polygamma
        (input=tensor weight=tensor)
            prelu
        (input=tensor dim=number keepdim=bool * dtype=none,dtype)
            prod
        (input=tensor index=tensor source=tensor accumulate=bool)
            put
        (input=tensor p=number dim=number maxnorm=number)
            renorm
        (input=tensor normalized_shape=number,list weight=tensor,none eps=number,none)
            rms_norm
        (input=tensor shifts=number,list dims=number,list)
            roll
        (input=tensor k=number dims=number,list)
            rot90
        (input=tensor * decimals=number)
            round
        (input=tensor other=tensor,number alpha=number)
            rsub
        (input=tensor dim=number index=tensor src/value=tensor,number * reduce=string)
            scatter
        (input=tensor dim=number index=tensor src=tensor)
            scatter_add
        (input=tensor dim=number index=tensor src=tensor reduce=string * include_self=bool)
            scatter_reduce
        (input=tensor dim=number index=number)
            select_copy
        (input=tensor src=tensor dim=number index=number)
            select_scatter
        (input=tensor dim=number start=number,none end=number,none step=number)
            slice_copy
        (input=tensor src=tensor dim=number start=number,none end=number,none step=number)
            slice_scatter
        (input=tensor split_size=number dim=number)
            split_copy
        (input=tensor split_sizes=number,list dim=number)
            split_with_sizes_copy
        (input=tensor dim=number,list)
            squeeze_copy
        (input=tensor dim/unbiased=number,bool,none,list unbiased=bool keepdim=bool * correction=number,none)
            std std_mean var var_mean
        (input=tensor,number other=tensor,number alpha=number)
            subtract
        (input=tensor index=tensor)
            take
        (input=tensor indices=tensor dim=number,none)
            take_along_dim
        (input=tensor threshold=number value=number)
            threshold
        (input=tensor dim0=number dim1=number)
            transpose_copy
        (y=tensor x=tensor * dx=number dim=number)
            trapz
        (anchor=tensor positive=tensor negative=tensor margin=number p=number eps=number swap=bool reduction=number)
            triplet_margin_loss
        (input=tensor dimension=number size=number step=number)
            unfold_copy
        (indices=tensor shape=number,list)
            unravel_index
        (x=tensor N=number,none increasing=bool)
            vander
        (input=tensor dtype/size=number,dtype,list)
            view_copy
        (condition=tensor input/self=tensor,number other=tensor,number)
            where
    """,
    "torch pure linear unbounded": """
        (input=tensor)
            argwhere
        (input=tensor weights=tensor,none minlength=number)
            bincount
        (input=tensor mask=tensor)
            masked_select
        (input=tensor * as_tuple=bool)
            nonzero
        (input/repeats=tensor repeats=tensor,number dim=number,none * output_size=number,none)
            repeat_interleave
    """,
    "torch pure product": """
        (beta/input=tensor,number self/batch1=tensor alpha/batch2/batch1=tensor,number batch1/batch2=tensor
        batch2=tensor)
            addbmm
        (beta/input=tensor,number self/mat1=tensor alpha/mat2/mat1=tensor,number mat1/out_dtype/mat2=tensor,dtype
        mat2=tensor)
            addmm
        (beta/input=tensor,number self/mat=tensor alpha/vec/mat=tensor,number mat/vec=tensor vec=tensor)
            addmv
        (input=tensor dim=number descending=bool * stable=bool)
            argsort
        (beta/input=tensor,number self/batch1=tensor alpha/batch2/batch1=tensor,number
        batch1/out_dtype/batch2=tensor,dtype batch2=tensor)
            baddbmm
        (input1=tensor input2=tensor weight=tensor bias=tensor,none)
            bilinear
        (input=tensor mat2=tensor out_dtype=dtype)
            bmm mm
        (x1=tensor x2=tensor p=number compute_mode=string)
            cdist
        (matrices...=tensor)
            chain_matmul
        (input=tensor r=number with_replacement=bool)
            combinations
        (input=tensor weight=tensor bias=tensor,none stride=number,list padding=number,string,list
        dilation=number,list groups=number)
            conv1d conv2d conv3d
        (input=tensor weight=tensor bias=tensor pad=number)
            conv_tbc
        (input=tensor weight=tensor bias=tensor,none stride=number,list padding=number,list output_padding=number,list
        groups=number dilation=number,list)
            conv_transpose1d conv_transpose2d conv_transpose3d
        (input=tensor weight=tensor bias=tensor,none stride=number,list padding=number,list dilation=number,list
        transposed=bool output_padding=number,list groups=number)
            convolution
        (input=tensor)
            corrcoef msort
        (input=tensor * correction=number fweights=tensor,none aweights=tensor,none)
            cov
        (input=tensor tensor=tensor)
            dot
        (input=tensor hx=tensor w_ih=tensor w_hh=tensor b_ih=tensor,none b_hh=tensor,none)
            gru_cell rnn_relu_cell rnn_tanh_cell
        (input=tensor other=tensor)
            inner kron matmul vdot
        (elements/element=tensor,number test_elements/test_element=tensor,number * assume_unique=bool invert=bool)
            isin
        (input=tensor n_fft=number hop_length=number,none win_length=number,none window=tensor,none center=bool
        normalized=bool onesided=bool,none length=number,none return_complex=bool)
            istft
        (input=tensor k=number dim=number keepdim=bool)
            kthvalue
        (input=tensor hx=tensor,list w_ih=tensor w_hh=tensor b_ih=tensor,none b_hh=tensor,none)
            lstm_cell
        (input=tensor dim=number keepdim=bool)
            median mode nanmedian
        (input=tensor vec=tensor)
            mv
        (input=tensor q=tensor,number dim=number,none keepdim=bool * interpolation=string)
            nanquantile quantile
        (input=tensor p=number)
            pdist
        (sorted_sequence=tensor input/self=tensor,number * out_int32=bool right=bool side=string,none
        sorter=tensor,none)
            searchsorted
        (input=tensor dim=number descending=bool * stable=bool,none)
            sort
        (input=tensor n_fft=number hop_length=number,none win_length=number,none window=tensor,none center=number,bool
        pad_mode=string normalized=number,bool onesided=number,bool,none return_complex=number,bool,none
        align_to_window=number,bool,none)
            stft
        (a=tensor b=tensor dims=tensor,number,list out=none)
            tensordot
        (input=tensor k=number dim=number largest=bool sorted=bool)
            topk
    """,
    "torch pure product unbounded": """
        (input=tensor sorted=number,bool return_inverse=number,bool return_counts=number,bool dim=number,none)
            unique
        (input=tensor return_inverse=number,bool return_counts=number,bool dim=number,none)
            unique_consecutive
    """,
    "torch random cubic": """
        (A=tensor q=number,none center=number,bool niter=number)
            pca_lowrank
        (A=tensor q=number,none niter=number,none M=tensor,none)
            svd_lowrank
    """,
    "torch random linear": """
        (input=tensor p=number)
            bernoulli
        (count=tensor prob=tensor generator=none)
            binomial
        (input=tensor num_samples=number replacement=bool)
            multinomial
        (mean=tensor,number std=tensor,number size=number,list * dtype=none,dtype layout=none,layout
        device=number,string,none,device requires_grad=bool,none)
            normal
        (input=tensor generator=none)
            poisson
        (input=tensor * memory_format=none,memory_format dtype=none,dtype layout=none,layout
        device=number,string,none,device requires_grad=bool,none)
            rand_like randn_like
        (input=tensor low/high=tensor,number high=number * memory_format=none,memory_format dtype=none,dtype
        layout=none,layout device=number,string,none,device requires_grad=bool,none)
            randint_like
        (input=tensor lower=number upper=number training=bool generator=none)
            rrelu
    """,
    "torch random linear shares": """
        (input=tensor p=number train=bool)
            alpha_dropout dropout feature_alpha_dropout feature_dropout
    """,
    "torch random product": """
        (data/input=tensor batch_sizes/hx=tensor hx/params=tensor,list params/has_biases=tensor,bool,list
        has_biases/num_layers=number,bool num_layers/dropout=number dropout/train=number,bool train/bidirectional=bool
        bidirectional/batch_first=bool)
            gru rnn_relu rnn_tanh
        (data/input=tensor batch_sizes/hx=tensor,list hx/params=tensor,list params/has_biases=tensor,bool,list
        has_biases/num_layers=number,bool num_layers/dropout=number dropout/train=number,bool train/bidirectional=bool
        bidirectional/batch_first=bool)
            lstm
    """,
    "torch view free": """
        (input=tensor)
            adjoint conj detach imag positive real t view_as_complex view_as_real
        (input=tensor size=number,list)
            broadcast_to
        (input=tensor chunks=number dim=number)
            chunk unsafe_chunk
        (input=tensor offset=number dim1=number dim2=number)
            diagonal
        (input=tensor sections/indices=number,list)
            dsplit hsplit vsplit
        (input=tensor source=number,list destination=number,list)
            moveaxis movedim
        (input=tensor dim=number start=tensor,number length=number)
            narrow
        (input=tensor dims=number,list)
            permute
        (input=tensor dim=number index=number)
            select
        (tensor=tensor split_size_or_sections=number,list dim=number)
            split
        (input=tensor split_sizes=number,list dim=number)
            split_with_sizes unsafe_split_with_sizes
        (input=tensor dim=number,list)
            squeeze
        (input=tensor axis0=number axis1=number)
            swapaxes
        (input=tensor dim0=number dim1=number)
            swapdims transpose
        (input=tensor dim=number)
            unbind unsqueeze
        (input=tensor dim=number sizes=number,list)
            unflatten
        (input=tensor split_size=number dim=number)
            unsafe_split
    """,
    "torch view free all": """
        (tensors...=tensor,list)
            atleast_1d atleast_2d atleast_3d broadcast_tensors
        (tensors...=tensor,list * indexing=string,none)
            meshgrid
    """,
    "torch view free unbounded": """
        (input=tensor tensor_indices_or_sections/sections/indices=tensor,number,list dim=number)
            tensor_split
    """,
    "torch view linear": """
        (input=tensor)
            conj_physical ravel resolve_conj resolve_neg
        (input=tensor start_dim=number end_dim=number)
            flatten
        (input=tensor shape=number,list)
            reshape
    """,
    "torch view product all": """
        (tensors...=tensor)
            cartesian_prod
        (equation=tensor,string operands...=tensor,number,list,ellipsis)
            einsum
        (input=tensor bins=tensor,number,list range=number,none,list weight=tensor,none density=bool)
            histogramdd
    """,
    "nn.functional inplace linear": """
        (input=tensor alpha=number)
            celu_ elu_
        (input=tensor min_val=number max_val=number)
            hardtanh_
        (input=tensor negative_slope=number)
            leaky_relu_
        (input=tensor)
            selu_
        (input=tensor threshold=number value=number)
            threshold_
    """,
    "nn.functional inplace linear draws": """
        (input=tensor lower=number upper=number training=bool generator=none)
            rrelu_
    """,
    "nn.functional pure linear": """
        (input=tensor output_size=number,list)
            adaptive_avg_pool1d
        (input=tensor output_size=number,none,list)
            adaptive_avg_pool2d adaptive_avg_pool3d
        (input=tensor output_size=number,list return_indices=number,bool)
            adaptive_max_pool1d adaptive_max_pool1d_with_indices
        (input=tensor output_size=number,none,list return_indices=number,bool)
            adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d adaptive_max_pool3d_with_indices
        (theta=tensor size=number,list align_corners=number,bool,none)
            affine_grid
        (input=tensor kernel_size=number,list stride=number,list padding=number,list ceil_mode=bool
        count_include_pad=bool)
            avg_pool1d
        (input=tensor kernel_size=number,list stride=number,none,list padding=number,list ceil_mode=bool
        count_include_pad=bool divisor_override=number,none)
            avg_pool2d avg_pool3d
        (input=tensor target=tensor weight=tensor,none size_average=number,bool,none reduce=number,bool,none
        reduction=string)
            binary_cross_entropy multilabel_soft_margin_loss
        (input=tensor target=tensor weight=tensor,none size_average=number,bool,none reduce=number,bool,none
        reduction=string pos_weight=tensor,none)
            binary_cross_entropy_with_logits
        (input=tensor alpha=number inplace=number,bool)
            celu elu
        (input=tensor groups=number)
            channel_shuffle
        (input1=tensor input2=tensor target=tensor margin=number size_average=number,bool,none reduce=number,bool,none
        reduction=string)
            cosine_embedding_loss margin_ranking_loss
        (x1=tensor x2=tensor dim=number eps=number)
            cosine_similarity
        (input=tensor target=tensor weight=tensor,none size_average=number,bool,none ignore_index=number
        reduce=number,bool,none reduction=string label_smoothing=number)
            cross_entropy
        (input=tensor weight=tensor padding_idx=number,none max_norm=none norm_type=number
        scale_grad_by_freq=number,bool sparse=number,bool)
            embedding
        (input=tensor weight=tensor offsets=tensor,none max_norm=none norm_type=number scale_grad_by_freq=number,bool
        mode=string sparse=number,bool per_sample_weights=tensor,none include_last_offset=number,bool
        padding_idx=number,none)
            embedding_bag
        (input=tensor target=tensor var=tensor,number full=number,bool,none eps=number,none reduction=string,none)
            gaussian_nll_loss
        (input=tensor approximate=string)
            gelu
        (input=tensor dim=number)
            glu
        (input=tensor grid=tensor mode=string padding_mode=string align_corners=number,bool,none)
            grid_sample
        (input=tensor num_groups=number weight=tensor,none bias=tensor,none eps=number)
            group_norm
        (input=tensor lambd=number)
            hardshrink softshrink
        (input=tensor inplace=number,bool)
            hardsigmoid hardswish mish relu relu6 selu silu
        (input=tensor min_val=number max_val=number inplace=number,bool)
            hardtanh
        (input=tensor target=tensor margin=number size_average=number,bool,none reduce=number,bool,none
        reduction=string)
            hinge_embedding_loss
        (input=tensor target=tensor reduction=string delta=number weight=tensor,none)
            huber_loss
        (input=tensor running_mean=none running_var=none weight=tensor,none bias=tensor,none
        use_input_stats=number,bool momentum=number eps=number)
            instance_norm
        (input=tensor size=number,none,list scale_factor=number,none,list mode=string align_corners=number,bool,none
        recompute_scale_factor=number,bool,none antialias=number,bool)
            interpolate
        (input=tensor target=tensor size_average=number,bool,none reduce=number,bool,none reduction=string
        log_target=number,bool)
            kl_div
        (input=tensor target=tensor size_average=number,bool,none reduce=number,bool,none reduction=string
        weight=tensor,none)
            l1_loss mse_loss
        (input=tensor normalized_shape=number,list weight=tensor,none bias=tensor,none eps=number)
            layer_norm
        (input=tensor negative_slope=number inplace=number,bool)
            leaky_relu
        (input=tensor size=number alpha=number beta=number k=number)
            local_response_norm
        (input=tensor dim=number,none _stacklevel=number dtype=none,dtype)
            log_softmax softmax softmin
        (input=tensor)
            logsigmoid sigmoid softsign tanh tanhshrink
        (input=tensor norm_type=number kernel_size=number,list stride=number,none,list ceil_mode=number,bool)
            lp_pool1d lp_pool2d lp_pool3d
        (input=tensor kernel_size=number,list stride=number,none,list padding=number,list dilation=number,list
        ceil_mode=number,bool return_indices=number,bool)
            max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
        (input=tensor indices=tensor kernel_size=number,list stride=number,none,list padding=number,list
        output_size=number,none,list)
            max_unpool1d max_unpool2d max_unpool3d
        (input=tensor target=tensor p=number margin=number weight=tensor,none size_average=number,bool,none
        reduce=number,bool,none reduction=string)
            multi_margin_loss
        (input=tensor target=tensor size_average=number,bool,none reduce=number,bool,none reduction=string)
            multilabel_margin_loss soft_margin_loss
        (input=tensor target=tensor weight=tensor,none size_average=number,bool,none ignore_index=number
        reduce=number,bool,none reduction=string)
            nll_loss
        (input=tensor p=number dim=number eps=number out=none)
            normalize
        (input=tensor pad=number,list mode=string value=number,none)
            pad
        (x1=tensor x2=tensor p=number eps=number keepdim=bool)
            pairwise_distance
        (input=tensor upscale_factor=number)
            pixel_shuffle
        (input=tensor downscale_factor=number)
            pixel_unshuffle
        (input=tensor target=tensor log_input=number,bool full=number,bool size_average=number,bool,none eps=number
        reduce=number,bool,none reduction=string)
            poisson_nll_loss
        (input=tensor weight=tensor)
            prelu
        (input=tensor normalized_shape=number,list weight=tensor,none eps=number,none)
            rms_norm
        (input=tensor target=tensor size_average=number,bool,none reduce=number,bool,none reduction=string
        beta=number)
            smooth_l1_loss
        (input=tensor beta=number threshold=number)
            softplus
        (input=tensor threshold=number value=number inplace=number,bool)
            threshold
        (anchor=tensor positive=tensor negative=tensor margin=number p=number eps=number swap=number,bool
        size_average=number,bool,none reduce=number,bool,none reduction=string)
            triplet_margin_loss
    """,
    "nn.functional pure linear unbounded": """
        (tensor=tensor num_classes=number)
            one_hot
    """,
    "nn.functional pure product": """
        (input1=tensor input2=tensor weight=tensor bias=tensor,none)
            bilinear
        (input=tensor weight=tensor bias=tensor,none stride=number,list padding=number,string,list
        dilation=number,list groups=number)
            conv1d conv2d conv3d
        (input=tensor weight=tensor bias=tensor pad=number)
            conv_tbc
        (input=tensor weight=tensor bias=tensor,none stride=number,list padding=number,list output_padding=number,list
        groups=number dilation=number,list)
            conv_transpose1d conv_transpose2d conv_transpose3d
        (input=tensor output_size=number,list kernel_size=number,list dilation=number,list padding=number,list
        stride=number,list)
            fold
        (input=tensor weight=tensor bias=tensor,none)
            linear
        (input=tensor linear_weight=tensor target=tensor * linear_bias=tensor,none weight=tensor,none reduction=string
        ignore_index=number,none label_smoothing=number)
            linear_cross_entropy
        (input=tensor p=number)
            pdist
        (input=tensor kernel_size=number,list dilation=number,list padding=number,list stride=number,list)
            unfold
    """,
    "nn.functional random linear": """
        (input=tensor kernel_size=number,list output_size=number,none,list output_ratio=number,none,list
        return_indices=number,bool _random_samples=none)
            fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d
            fractional_max_pool3d_with_indices
        (logits=tensor tau=number hard=number,bool eps=number dim=number)
            gumbel_softmax
        (input=tensor lower=number upper=number training=number,bool inplace=number,bool)
            rrelu
    """,
    "nn.functional random linear shares": """
        (input=tensor p=number training=number,bool inplace=number,bool)
            alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout
    """,
    "nn.functional random product": """
        (query=tensor key=tensor value=tensor embed_dim_to_check=number num_heads=number in_proj_weight=tensor,none
        in_proj_bias=tensor,none bias_k=tensor,none bias_v=tensor,none add_zero_attn=number,bool dropout_p=number
        out_proj_weight=tensor out_proj_bias=tensor,none training=number,bool key_padding_mask=tensor,none
        need_weights=number,bool attn_mask=tensor,none use_separate_proj_weight=number,bool q_proj_weight=tensor,none
        k_proj_weight=tensor,none v_proj_weight=tensor,none static_k=tensor,none static_v=tensor,none
        average_attn_weights=number,bool is_causal=number,bool)
            multi_head_attention_forward
        (query=tensor key=tensor value=tensor attn_mask=tensor,none dropout_p=number is_causal=bool scale=number,none
        enable_gqa=bool)
            scaled_dot_product_attention
    """,
    "linalg pure cubic": """
        (input=tensor * upper=bool)
            cholesky
        (input=tensor * upper=bool check_errors=bool)
            cholesky_ex
        (input=tensor p=number,string,none)
            cond
        (A=tensor)
            det inv slogdet
        (input=tensor)
            eig eigvals matrix_exp
        (input=tensor UPLO=string)
            eigh eigvalsh
        (input=tensor tau=tensor)
            householder_product
        (A=tensor * check_errors=bool)
            inv_ex
        (input=tensor * hermitian=bool)
            ldl_factor
        (input=tensor * hermitian=bool check_errors=bool)
            ldl_factor_ex
        (LD=tensor pivots=tensor B=tensor * hermitian=bool)
            ldl_solve
        (A=tensor * pivot=bool)
            lu lu_factor
        (A=tensor * pivot=bool check_errors=bool)
            lu_factor_ex
        (LU=tensor pivots=tensor B=tensor * left=bool adjoint=bool)
            lu_solve
        (input=tensor ord=number,string dim=number,list keepdim=bool * dtype=none,dtype)
            matrix_norm
        (input=tensor n=number)
            matrix_power
        (input=tensor tol=tensor,number hermitian=bool * atol=tensor,number,none rtol=tensor,number,none)
            matrix_rank
        (input=tensor ord=number,string,none dim=number,none,list keepdim=bool * dtype=none,dtype)
            norm
        (input=tensor rcond=tensor,number hermitian=bool * atol=tensor,number,none rtol=tensor,number,none)
            pinv
        (A=tensor mode=string)
            qr
        (A=tensor B=tensor * left=bool)
            solve
        (A=tensor B=tensor * left=bool check_errors=bool)
            solve_ex
        (input=tensor B=tensor * upper=bool left=bool unitriangular=bool)
            solve_triangular
        (A=tensor full_matrices=bool * driver=string,none)
            svd
        (A=tensor * driver=string,none)
            svdvals
        (input=tensor ind=number)
            tensorinv
        (input=tensor other=tensor dims=number,none,list)
            tensorsolve
    """,
    "linalg pure cubic unbounded": """
        (input=tensor b=tensor rcond=number,none * driver=string,none)
            lstsq
    """,
    "linalg pure linear": """
        (input=tensor other=tensor * dim=number)
            cross
        (x=tensor * N=number,none)
            vander
        (input=tensor ord=number dim=number,none,list keepdim=bool * dtype=none,dtype)
            vector_norm
    """,
    "linalg pure product": """
        (input=tensor other=tensor)
            matmul
        (tensors=tensor,list)
            multi_dot
        (x=tensor y=tensor * dim=number)
            vecdot
    """,
    "linalg view free": """
        (A=tensor * offset=number dim1=number dim2=number)
            diagonal
    """,
    "fft pure linear": """
        (input=tensor dim=number,none,list)
            fftshift ifftshift
    """,
    "fft pure product": """
        (input=tensor n=number,none dim=number norm=string,none)
            fft hfft ifft ihfft irfft rfft
        (input=tensor s=number,none,list dim=number,list norm=string,none)
            fft2 hfft2 ifft2 ihfft2 irfft2 rfft2
        (input=tensor s=number,none,list dim=number,none,list norm=string,none)
            fftn hfftn ifftn ihfftn irfftn rfftn
    """,
    "special pure linear": """
        (x=tensor)
            airy_ai scaled_modified_bessel_k0 scaled_modified_bessel_k1 spherical_bessel_j0
        (input=tensor)
            bessel_j0 bessel_j1 bessel_y0 bessel_y1 digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e
            i1 i1e log1p log_ndtr modified_bessel_i0 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 ndtr
            ndtri psi sinc
        (x=tensor,number n=tensor,number)
            chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w
            hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l legendre_polynomial_p
            shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
            shifted_chebyshev_polynomial_w
        (input=tensor other=tensor)
            gammainc gammaincc
        (input=tensor dim=number * dtype=none,dtype)
            log_softmax
        (input=tensor eps=number,none)
            logit
        (input=tensor dim=number,list keepdim=bool)
            logsumexp
        (input=tensor p=number)
            multigammaln
        (n=number input=tensor)
            polygamma
        (input=tensor * decimals=number)
            round
        (input=tensor dim=number dtype=none,dtype)
            softmax
        (input=tensor,number other=tensor,number)
            xlog1py xlogy zeta
    """,
    "Tensor inplace linear": """
        (self=tensor)
            abs_ absolute_ acos_ acosh_ arccos_ arccosh_ arcsin_ arcsinh_ arctan_ arctanh_ asin_ asinh_ atan_ atanh_
            bitwise_not_ ceil_ conj_physical_ cos_ cosh_ deg2rad_ detach_ digamma_ erf_ erfc_ erfinv_ exp2_ exp_
            expm1_ fix_ floor_ frac_ i0_ lgamma_ log10_ log1p_ log2_ log_ logical_not_ neg_ negative_ rad2deg_
            reciprocal_ relu_ rsqrt_ sgn_ sigmoid_ sign_ sin_ sinc_ sinh_ sqrt_ square_ t_ tan_ tanh_ trunc_ zero_
        (self=tensor other=tensor,number * alpha=number,none)
            add_ sub_
        (self=tensor tensor1=tensor tensor2=tensor * value=number)
            addcdiv_ addcmul_
        (self=tensor vec1=tensor vec2=tensor * beta=number alpha=number)
            addr_
        (self=tensor other=tensor)
            arctan2_ atan2_ gcd_ hypot_ igamma_ igammac_ lcm_ ldexp_ logical_and_ logical_or_ logical_xor_ nextafter_
        (self=tensor other=tensor,number)
            bitwise_and_ bitwise_left_shift_ bitwise_or_ bitwise_right_shift_ bitwise_xor_ copysign_ eq_ floor_divide_
            fmod_ ge_ greater_ greater_equal_ gt_ le_ less_ less_equal_ lt_ mul_ multiply_ ne_ not_equal_ remainder_
            true_divide_ xlogy_
        (self=tensor min=tensor,number,none max=tensor,number,none)
            clamp_ clip_
        (self=tensor max=tensor,number)
            clamp_max_
        (self=tensor min=tensor,number)
            clamp_min_
        (self=tensor other=tensor,number non_blocking=bool)
            copy_
        (self=tensor dim=number * dtype=none,dtype)
            cumprod_ cumsum_
        (self=tensor other=tensor,number * rounding_mode=string,none)
            div_ divide_
        (self=tensor value=tensor,number)
            fill_
        (self=tensor fill_value=number wrap=bool)
            fill_diagonal_
        (self=tensor exponent=tensor,number)
            float_power_ pow_
        (self=tensor values=tensor)
            heaviside_
        (self=tensor dim=number index=tensor source=tensor * alpha=number)
            index_add_
        (self=tensor dim=number index=tensor source=tensor)
            index_copy_
        (self=tensor dim=number index=tensor value=tensor,number)
            index_fill_
        (self=tensor indices=tensor,none,list values=tensor accumulate=bool)
            index_put_
        (self=tensor dim=number index=tensor source=tensor reduce=string * include_self=bool)
            index_reduce_
        (self=tensor end=tensor weight=tensor,number)
            lerp_
        (self=tensor eps=number,none)
            logit_
        (self=tensor mask=tensor value=tensor,number)
            masked_fill_
        (self=tensor mask=tensor source=tensor)
            masked_scatter_
        (self=tensor p=number)
            mvlgamma_
        (self=tensor nan=number,none posinf=number,none neginf=number,none)
            nan_to_num_
        (self=tensor n=number)
            polygamma_
        (self=tensor index=tensor source=tensor accumulate=bool)
            put_
        (self=tensor p=number dim=number maxnorm=number)
            renorm_
        (self=tensor * decimals=number)
            round_
        (self=tensor dim=number index=tensor src/value=tensor,number * reduce=string)
            scatter_
        (self=tensor dim=number index=tensor src=tensor)
            scatter_add_
        (self=tensor dim=number index=tensor src=tensor reduce=string * include_self=bool)
            scatter_reduce_
        (self=tensor dim/dim...=number,list)
            squeeze_
        (self=tensor other=tensor,number alpha=number)
            subtract_
        (self=tensor axis0=number axis1=number)
            swapaxes_
        (self=tensor dim0=number dim1=number)
            swapdims_ transpose_
        (self=tensor diagonal=number)
            tril_ triu_
        (self=tensor dim=number)
            unsqueeze_
    """,
    "Tensor inplace linear draws": """
        (self=tensor p=tensor,number)
            bernoulli_
        (self=tensor median=number sigma=number)
            cauchy_
        (self=tensor lambd=number)
            exponential_
        (self=tensor p=number)
            geometric_
        (self=tensor mean=number std=number)
            log_normal_ normal_
        (self=tensor from/to=number to=number,none)
            random_
        (self=tensor from=number to=number)
            uniform_
    """,
    "Tensor inplace product": """
        (self=tensor batch1=tensor batch2=tensor * beta=number alpha=number)
            addbmm_ baddbmm_
        (self=tensor mat1=tensor mat2=tensor * beta=number alpha=number)
            addmm_
        (self=tensor mat=tensor vec=tensor * beta=number alpha=number)
            addmv_
    """,
    "Tensor pure cubic": """
        (self=tensor upper=bool)
            cholesky cholesky_inverse
        (self=tensor input2=tensor upper=bool)
            cholesky_solve
        (self=tensor)
            det geqrf inverse logdet matrix_exp slogdet
        (self=tensor pivot=number,bool get_infos=number,bool)
            lu
        (self=tensor LU_data=tensor LU_pivots=tensor)
            lu_solve
        (self=tensor n=number)
            matrix_power
        (self=tensor p=number,string,none dim=number,none,list keepdim=number,bool dtype=none,dtype)
            norm
        (self=tensor input2=tensor)
            orgqr
        (self=tensor input2=tensor input3=tensor left=bool transpose=bool)
            ormqr
        (self=tensor rcond=number)
            pinverse
        (self=tensor some=bool)
            qr
        (self=tensor some=bool compute_uv=bool)
            svd
        (self=tensor A=tensor upper=bool transpose=bool unitriangular=bool)
            triangular_solve
    """,
    "Tensor pure free": """
        (self=tensor)
            dim element_size is_complex is_conj is_floating_point is_neg is_signed ndimension nelement numel
        (self=tensor memory_format=memory_format)
            is_contiguous
        (self=tensor other=tensor)
            is_same_size
        (self=tensor dim=number,none)
            size stride
    """,
    "Tensor pure linear": """
        (self=tensor)
            abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh
            bitwise_not ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 fix fliplr flipud floor frac
            frexp i0 isfinite isinf isnan isneginf isposinf isreal lgamma log log10 log1p log2 logical_not neg
            negative rad2deg reciprocal relu rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trace
            trunc
        (self=tensor other=tensor,number * alpha=number,none)
            add sub
        (self=tensor tensor1=tensor tensor2=tensor * value=number)
            addcdiv addcmul
        (self=tensor vec1=tensor vec2=tensor * beta=number alpha=number)
            addr
        (self=tensor dim=number,none,list keepdim=bool)
            all any
        (self=tensor other=tensor rtol=number atol=number equal_nan=bool)
            allclose isclose
        (self=tensor dim=number,list keepdim=bool)
            amax amin logsumexp
        (self=tensor * dim=number,none keepdim=bool)
            aminmax
        (self=tensor other=tensor)
            arctan2 atan2 equal fmax fmin gcd hypot igamma igammac lcm ldexp logaddexp logaddexp2 logical_and
            logical_or logical_xor maximum minimum nextafter
        (self=tensor dim=number,none keepdim=bool)
            argmax argmin
        (self=tensor other=tensor,number)
            bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign eq floor_divide fmod ge
            greater greater_equal gt le less less_equal lt mul multiply ne not_equal remainder true_divide xlogy
        (self=tensor min=tensor,number,none max=tensor,number,none)
            clamp clip
        (self=tensor max=tensor,number)
            clamp_max
        (self=tensor min=tensor,number)
            clamp_min
        (self=tensor * memory_format=none,memory_format)
            clone
        (self=tensor dim/dim...=number,none,list)
            count_nonzero
        (self=tensor other=tensor dim=number,none)
            cross
        (self=tensor dim=number)
            cummax cummin logcumsumexp
        (self=tensor dim=number * dtype=none,dtype)
            cumprod cumsum
        (self=tensor diagonal=number)
            diag tril triu
        (self=tensor offset=number dim1=number dim2=number)
            diag_embed
        (self=tensor offset=number)
            diagflat
        (self=tensor src=tensor offset=number dim1=number dim2=number)
            diagonal_scatter
        (self=tensor n=number dim=number prepend=tensor,none append=tensor,none)
            diff
        (self=tensor other=tensor p=number)
            dist
        (self=tensor other=tensor,number * rounding_mode=string,none)
            div divide
        (self=tensor dims/dims...=number,list)
            flip tile
        (self=tensor exponent=tensor,number)
            float_power pow
        (self=tensor dim=number index=tensor * sparse_grad=bool)
            gather
        (self=tensor vec2=tensor)
            ger outer
        (self=tensor lambd=number)
            hardshrink
        (self=tensor dim/dim...=number,list * keepdim=bool mode=number)
            hash_tensor
        (self=tensor values=tensor)
            heaviside
        (self=tensor bins=number min=number max=number)
            histc
        (self=tensor bins=tensor,number * weight=tensor,none density=bool range=number,none,list)
            histogram
        (self=tensor dim=number index=tensor source=tensor * alpha=number)
            index_add
        (self=tensor dim=number index=tensor source=tensor)
            index_copy
        (self=tensor dim=number index=tensor value=tensor,number)
            index_fill
        (self=tensor indices=tensor,none,list values=tensor accumulate=bool)
            index_put
        (self=tensor dim=number index=tensor source=tensor reduce=string * include_self=bool)
            index_reduce
        (self=tensor dim=number index=tensor)
            index_select
        (self=tensor end=tensor weight=tensor,number)
            lerp
        (self=tensor dim=number dtype=none,dtype)
            log_softmax softmax
        (self=tensor eps=number,none)
            logit
        (self=tensor mask=tensor value=tensor,number)
            masked_fill
        (self=tensor mask=tensor source=tensor)
            masked_scatter
        (self=tensor other/dim=tensor,number keepdim=bool)
            max min
        (self=tensor dim=number,none,list keepdim=bool * dtype=none,dtype)
            mean nanmean nansum sum
        (self=tensor p=number)
            mvlgamma
        (self=tensor nan=number,none posinf=number,none neginf=number,none)
            nan_to_num
        (self=tensor dim=number start=number length=number)
            narrow_copy
        (self=tensor size=number,list fill_value=number * dtype=none,dtype layout=none,layout
        device=number,string,none,device requires_grad=bool,none)
            new_full
        (self=tensor size/size...=number,list dtype=none,dtype device=number,string,none,device requires_grad=bool
        pin_memory=none * layout=none,layout)
            new_ones
        (self=tensor data=tensor,number,bool,list * dtype=none,dtype device=number,string,none,device
        requires_grad=bool)
            new_tensor
        (self=tensor size/size...=number,list * dtype=none,dtype layout=none,layout device=number,string,none,device
        requires_grad=bool,none)
            new_zeros
        (self=tensor * size=number fill_value=number)
            nonzero_static
        (self=tensor n=number)
            polygamma
        (self=tensor weight=tensor)
            prelu
        (self=tensor dim=number keepdim=bool * dtype=none,dtype)
            prod
        (self=tensor index=tensor source=tensor accumulate=bool)
            put
        (self=tensor p=number dim=number maxnorm=number)
            renorm
        (self=tensor repeats/repeats...=number,list)
            repeat
        (self=tensor shifts=number,list dims=number,list)
            roll
        (self=tensor k=number dims=number,list)
            rot90
        (self=tensor * decimals=number)
            round
        (self=tensor dim=number index=tensor src/value=tensor,number * reduce=string)
            scatter
        (self=tensor dim=number index=tensor src=tensor)
            scatter_add
        (self=tensor dim=number index=tensor src=tensor reduce=string * include_self=bool)
            scatter_reduce
        (self=tensor src=tensor dim=number index=number)
            select_scatter
        (self=tensor src=tensor dim=number start=number,none end=number,none step=number)
            slice_scatter
        (self=tensor dim/unbiased=number,bool,none,list unbiased=bool keepdim=bool * correction=number,none)
            std var
        (self=tensor other=tensor,number alpha=number)
            subtract
        (self=tensor index=tensor)
            take
        (self=tensor indices=tensor dim=number,none)
            take_along_dim
        (self=tensor condition=tensor other=tensor,number)
            where
    """,
    "Tensor pure linear unbounded": """
        (self=tensor)
            argwhere
        (self=tensor weights=tensor,none minlength=number)
            bincount
        (self=tensor mask=tensor)
            masked_select
        (self=tensor * as_tuple=bool)
            nonzero
        (self=tensor repeats=tensor,number dim=number,none * output_size=number,none)
            repeat_interleave
    """,
    "Tensor pure product": """
        (self=tensor batch1=tensor batch2=tensor * beta=number alpha=number)
            addbmm baddbmm
        (self=tensor mat1=tensor mat2=tensor * beta=number alpha=number)
            addmm
        (self=tensor mat=tensor vec=tensor * beta=number alpha=number)
            addmv
        (self=tensor dim=number descending=bool * stable=bool)
            argsort
        (self=tensor mat2=tensor)
            bmm mm
        (self=tensor)
            corrcoef msort
        (self=tensor * correction=number fweights=tensor,none aweights=tensor,none)
            cov
        (self=tensor tensor=tensor)
            dot
        (self=tensor other=tensor)
            inner kron matmul vdot
        (self=tensor n_fft=number hop_length=number,none win_length=number,none window=tensor,none center=number,bool
        normalized=number,bool onesided=number,bool,none length=number,none return_complex=number,bool)
            istft
        (self=tensor k=number dim=number keepdim=bool)
            kthvalue
        (self=tensor dim=number keepdim=bool)
            median mode nanmedian
        (self=tensor vec=tensor)
            mv
        (self=tensor q=tensor,number dim=number,none keepdim=bool * interpolation=string)
            nanquantile quantile
        (self=tensor dim=number descending=bool * stable=bool,none)
            sort
        (self=tensor n_fft=number hop_length=number,none win_length=number,none window=tensor,none center=number,bool
        pad_mode=string normalized=number,bool onesided=number,bool,none return_complex=number,bool,none
        align_to_window=number,bool,none)
            stft
        (self=tensor k=number dim=number largest=bool sorted=bool)
            topk
    """,
    "Tensor pure product unbounded": """
        (self=tensor sorted=number,bool return_inverse=number,bool return_counts=number,bool dim=number,none)
            unique
        (self=tensor return_inverse=number,bool return_counts=number,bool dim=number,none)
            unique_consecutive
    """,
    "Tensor random linear": """
        (self=tensor p=number)
            bernoulli
        (self=tensor num_samples=number replacement=bool)
            multinomial
    """,
    "Tensor view free": """
        (self=tensor)
            adjoint conj detach positive t
        (self=tensor size/size...=number,list)
            broadcast_to
        (self=tensor chunks=number dim=number)
            chunk unsafe_chunk
        (self=tensor offset=number dim1=number dim2=number)
            diagonal
        (self=tensor sections/indices/indices...=number,list)
            dsplit hsplit vsplit
        (self=tensor size/size...=number,list * implicit=bool)
            expand
        (self=tensor other=tensor)
            expand_as view_as
        (self=tensor indices=tensor,none,list)
            index
        (self=tensor source=number,list destination=number,list)
            moveaxis movedim
        (self=tensor dim=number start=tensor,number length=number)
            narrow
        (self=tensor dims/dims...=number,list)
            permute
        (self=tensor dim=number index=number)
            select
        (self=tensor split_size=number,list dim=number)
            split
        (self=tensor split_sizes=number,list dim=number)
            split_with_sizes unsafe_split_with_sizes
        (self=tensor dim/dim...=number,list)
            squeeze
        (self=tensor axis0=number axis1=number)
            swapaxes
        (self=tensor dim0=number dim1=number)
            swapdims transpose
        (self=tensor dim=number)
            unbind unsqueeze
        (self=tensor dim=number sizes=number,list)
            unflatten
        (self=tensor dimension=number size=number step=number)
            unfold
        (self=tensor split_size=number dim=number)
            unsafe_split
        (self=tensor dtype/size/size...=number,dtype,list)
            view
    """,
    "Tensor view free unbounded": """
        (self=tensor indices/tensor_indices_or_sections/sections=tensor,number,list dim=number)
            tensor_split
    """,
    "Tensor view linear": """
        (self=tensor * memory_format=none,memory_format)
            bfloat16 bool byte cdouble cfloat chalf char double float half int long short
        (self=tensor)
            conj_physical ravel resolve_conj resolve_neg
        (self=tensor memory_format=memory_format)
            contiguous cpu
        (self=tensor device=number,string,none,device non_blocking=bool memory_format=memory_format)
            cuda
        (self=tensor start_dim=number end_dim=number)
            flatten
        (self=tensor shape/shape...=number,list)
            reshape
        (self=tensor other=tensor)
            reshape_as type_as
        (self=tensor size/size...=number,list)
            sum_to_size
        (self=tensor dtype/device/other=tensor,number,string,none,dtype,device non_blocking/dtype=bool,none,dtype
        copy/non_blocking=bool copy=bool * memory_format=none,memory_format)
            to
        (self=tensor dtype=string,none,dtype non_blocking=bool)
            type
    """,
}

RESULT_FIELDS = """
    L LD LU P Q R S U V Vh a bin_edges cloned_coefficient eigenvalues eigenvectors exponent hist indices info inverse
    logabsdet mantissa max min pivots rank residuals result sign singular_values solution tau values
"""

OUTPUT_FIELDS = """
    attentions aux_loss beam_indices cross_attentions decoder_attentions decoder_aux_loss decoder_hidden_states
    decoder_router_logits decoder_z_loss embeddings encoder_attentions encoder_aux_loss encoder_hidden_states
    encoder_last_hidden_state encoder_router_logits encoder_z_loss end_logits extract_features feature_maps
    hidden_states last_hidden_state loc logits loss params past_key_values pooler_output predicted_depth
    projection_state reconstruction router_logits router_probs scale scores sequences sequences_scores spectrogram
    start_logits static_features
"""
