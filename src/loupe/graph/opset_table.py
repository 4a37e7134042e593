"""The allowed torch functions by namespace and effect; written by `scripts/list_ops.py`, not by hand."""

TABLE: dict[str, dict[str, str]] = {
    "torch": {
        "pure": """
            abs absolute acos acosh adaptive_avg_pool1d adaptive_max_pool1d add addbmm addcdiv addcmul addmm
            addmv addr affine_grid_generator all allclose amax amin aminmax angle any arccos arccosh arcsin
            arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere asin asinh atan atan2 atanh
            avg_pool1d baddbmm bilinear binary_cross_entropy_with_logits bincount bitwise_and
            bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm bucketize cat
            cdist ceil celu chain_matmul channel_shuffle cholesky cholesky_inverse cholesky_solve
            choose_qparams_optimized clamp clamp_max clamp_min clip clone column_stack combinations complex
            concat concatenate constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d
            conv_transpose3d convolution copysign corrcoef cos cosh cosine_embedding_loss cosine_similarity
            count_nonzero cov cross ctc_loss cummax cummin cumprod cumsum cumulative_trapezoid deg2rad det
            diag diag_embed diagflat diagonal_scatter diff digamma dist div divide dot dstack embedding
            embedding_bag empty_like eq equal erf erfc erfinv exp exp2 expm1 fix flip fliplr flipud
            float_power floor floor_divide fmax fmin fmod frac frexp frobenius_norm full_like gather gcd ge
            geqrf ger gradient greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm
            gt hardshrink heaviside hinge_embedding_loss histc histogram histogramdd hstack hypot i0 igamma
            igammac index_add index_copy index_fill index_put index_reduce index_select inner instance_norm
            inverse is_complex is_conj is_floating_point is_neg is_same_size is_signed isclose isfinite isin
            isinf isnan isneginf isposinf isreal istft kl_div kron kthvalue layer_norm lcm ldexp le lerp
            less less_equal lgamma log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logdet
            logical_and logical_not logical_or logical_xor logit logsumexp lt lu lu_solve lu_unpack
            margin_ranking_loss masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max
            max_pool1d max_pool1d_with_indices max_pool2d max_pool3d maximum mean median min minimum mm mode
            msort mul multiply mv mvlgamma nanmean nanmedian nanquantile nansum ne neg negative nextafter
            nonzero nonzero_static norm norm_except_dim not_equal nuclear_norm numel ones_like orgqr ormqr
            outer pairwise_distance pca_lowrank pdist pinverse pixel_shuffle pixel_unshuffle
            poisson_nll_loss polar polygamma pow prelu prod put qr quantile rad2deg reciprocal relu
            remainder renorm repeat_interleave rms_norm roll rot90 round row_stack rsqrt rsub scatter
            scatter_add scatter_reduce searchsorted select_scatter selu sgn sigmoid sign signbit sin sinc
            sinh slice_scatter slogdet softmax sort sqrt square sspaddmm stack std std_mean stft sub
            subtract sum svd svd_lowrank take take_along_dim tan tanh tensordot threshold tile topk trace
            trapezoid trapz triangular_solve tril triplet_margin_loss triu true_divide trunc unique
            unique_consecutive unravel_index var var_mean vdot vstack where xlogy zeros_like
        """,
        "view": """
            adjoint atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to
            cartesian_prod chunk conj conj_physical detach diagonal dsplit einsum flatten hsplit imag
            meshgrid moveaxis movedim nan_to_num narrow permute positive ravel real reshape resolve_conj
            resolve_neg select split split_with_sizes squeeze swapaxes swapdims t tensor_split transpose
            unbind unflatten unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view_as_complex
            view_as_real vsplit
        """,
        "random": """
            alpha_dropout bernoulli binomial dropout feature_alpha_dropout feature_dropout multinomial
            poisson rand_like randint_like randn_like rrelu
        """,
    },
    "nn.functional": {
        "pure": """
            adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
            adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices
            adaptive_max_pool3d adaptive_max_pool3d_with_indices affine_grid avg_pool1d avg_pool2d
            avg_pool3d bilinear binary_cross_entropy binary_cross_entropy_with_logits celu channel_shuffle
            conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_embedding_loss
            cosine_similarity cross_entropy ctc_loss elu embedding embedding_bag fold gaussian_nll_loss gelu
            glu grid_sample group_norm hardshrink hardsigmoid hardswish hardtanh hinge_embedding_loss
            huber_loss instance_norm interpolate kl_div l1_loss layer_norm leaky_relu linear
            linear_cross_entropy local_response_norm log_softmax logsigmoid lp_pool1d lp_pool2d lp_pool3d
            margin_ranking_loss max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
            max_pool3d max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d mish mse_loss
            multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize one_hot
            pairwise_distance pdist pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu relu6 rms_norm
            selu sigmoid silu smooth_l1_loss soft_margin_loss softmax softmin softplus softshrink softsign
            tanh tanhshrink threshold triplet_margin_loss
        """,
        "view": """
            pad unfold
        """,
        "random": """
            alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout fractional_max_pool2d
            fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices
            gumbel_softmax rrelu scaled_dot_product_attention
        """,
    },
    "linalg": {
        "pure": """
            cholesky cholesky_ex cond cross det eig eigh eigvals eigvalsh householder_product inv inv_ex
            ldl_factor ldl_factor_ex ldl_solve lstsq lu lu_factor lu_factor_ex lu_solve matmul matrix_exp
            matrix_norm matrix_power matrix_rank multi_dot norm pinv qr slogdet solve solve_ex
            solve_triangular svd svdvals tensorinv tensorsolve vander vecdot vector_norm
        """,
        "view": """
            diagonal
        """,
    },
    "fft": {
        "pure": """
            fft fft2 fftn fftshift hfft hfft2 hfftn ifft ifft2 ifftn ifftshift ihfft ihfft2 ihfftn irfft
            irfft2 irfftn rfft rfft2 rfftn
        """,
    },
    "special": {
        "pure": """
            airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 chebyshev_polynomial_t chebyshev_polynomial_u
            chebyshev_polynomial_v chebyshev_polynomial_w digamma entr erf erfc erfcx erfinv exp2 expit
            expm1 gammainc gammaincc gammaln hermite_polynomial_h hermite_polynomial_he i0 i0e i1 i1e
            laguerre_polynomial_l legendre_polynomial_p log1p log_ndtr log_softmax logit logsumexp
            modified_bessel_i0 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 multigammaln ndtr
            ndtri polygamma psi round scaled_modified_bessel_k0 scaled_modified_bessel_k1
            shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
            shifted_chebyshev_polynomial_w sinc softmax spherical_bessel_j0 xlog1py xlogy zeta
        """,
    },
    "Tensor": {
        "pure": """
            abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr all allclose amax amin
            aminmax angle any arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort
            argwhere asin asinh atan atan2 atanh baddbmm bincount bitwise_and bitwise_left_shift bitwise_not
            bitwise_or bitwise_right_shift bitwise_xor bmm ceil cholesky cholesky_inverse cholesky_solve
            clamp clamp_max clamp_min clip clone copysign corrcoef cos cosh count_nonzero cov cross cummax
            cummin cumprod cumsum deg2rad det diag diag_embed diagflat diagonal_scatter diff digamma dim
            dist div divide dot element_size eq equal erf erfc erfinv exp exp2 expm1 fix flip fliplr flipud
            float_power floor floor_divide fmax fmin fmod frac frexp gather gcd ge geqrf ger greater
            greater_equal gt hardshrink heaviside histc histogram hypot i0 igamma igammac index_add
            index_copy index_fill index_put index_reduce index_select inner inverse is_complex is_conj
            is_contiguous is_floating_point is_neg is_same_size is_signed isclose isfinite isinf isnan
            isneginf isposinf isreal istft kron kthvalue lcm ldexp le lerp less less_equal lgamma log log10
            log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not
            logical_or logical_xor logit logsumexp lt lu lu_solve masked_fill masked_scatter masked_select
            matmul matrix_exp matrix_power max maximum mean median min minimum mm mode msort mul multiply mv
            mvlgamma nanmean nanmedian nanquantile nansum ndimension ne neg negative nelement new_empty
            new_full new_ones new_tensor new_zeros nextafter nonzero nonzero_static norm not_equal numel
            orgqr ormqr outer pinverse polygamma pow prelu prod put qr quantile rad2deg reciprocal relu
            remainder renorm repeat repeat_interleave roll rot90 round rsqrt scatter scatter_add
            scatter_reduce select_scatter sgn sigmoid sign signbit sin sinc sinh size slice_scatter slogdet
            softmax sort sqrt square sspaddmm std stft sub subtract sum svd take take_along_dim tan tanh
            tile topk trace triangular_solve tril triu true_divide trunc unique unique_consecutive var vdot
            where xlogy
        """,
        "view": """
            adjoint bfloat16 bool broadcast_to byte cdouble cfloat chalf char chunk conj conj_physical
            contiguous cpu cuda detach diagonal double dsplit expand expand_as flatten float half hsplit
            index int long moveaxis movedim nan_to_num narrow permute positive ravel reshape reshape_as
            resolve_conj resolve_neg select short split split_with_sizes squeeze sum_to_size swapaxes
            swapdims t tensor_split to transpose type type_as unbind unflatten unfold unsafe_chunk
            unsafe_split unsafe_split_with_sizes unsqueeze view view_as vsplit
        """,
        "inplace": """
            abs_ absolute_ acos_ acosh_ add_ addbmm_ addcdiv_ addcmul_ addmm_ addmv_ addr_ arccos_ arccosh_
            arcsin_ arcsinh_ arctan2_ arctan_ arctanh_ asin_ asinh_ atan2_ atan_ atanh_ baddbmm_ bernoulli_
            bitwise_and_ bitwise_left_shift_ bitwise_not_ bitwise_or_ bitwise_right_shift_ bitwise_xor_
            cauchy_ ceil_ clamp_ clamp_max_ clamp_min_ clip_ conj_physical_ copy_ copysign_ cos_ cosh_
            cumprod_ cumsum_ deg2rad_ detach_ digamma_ div_ divide_ eq_ erf_ erfc_ erfinv_ exp2_ exp_ expm1_
            exponential_ fill_ fill_diagonal_ fix_ float_power_ floor_ floor_divide_ fmod_ frac_ gcd_ ge_
            geometric_ greater_ greater_equal_ gt_ heaviside_ hypot_ i0_ igamma_ igammac_ index_add_
            index_copy_ index_fill_ index_put_ index_reduce_ lcm_ ldexp_ le_ lerp_ less_ less_equal_ lgamma_
            log10_ log1p_ log2_ log_ log_normal_ logical_and_ logical_not_ logical_or_ logical_xor_ logit_
            lt_ masked_fill_ masked_scatter_ mul_ multiply_ mvlgamma_ nan_to_num_ ne_ neg_ negative_
            nextafter_ normal_ not_equal_ polygamma_ pow_ put_ rad2deg_ random_ reciprocal_ relu_ remainder_
            renorm_ round_ rsqrt_ scatter_ scatter_add_ scatter_reduce_ sgn_ sigmoid_ sign_ sin_ sinc_ sinh_
            sqrt_ square_ squeeze_ sub_ subtract_ swapaxes_ swapdims_ t_ tan_ tanh_ transpose_ tril_ triu_
            true_divide_ trunc_ uniform_ unsqueeze_ xlogy_ zero_
        """,
        "random": """
            bernoulli multinomial
        """,
    },
}
