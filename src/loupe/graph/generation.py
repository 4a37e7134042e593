"""List the options of a generation that may leave this process: those that are data, and load or call nothing."""

from __future__ import annotations

GENERATION_OPTIONS = frozenset(
    """
    max_new_tokens min_new_tokens max_length min_length max_time early_stopping stop_strings do_sample num_beams
    num_return_sequences temperature top_k top_p top_h min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty
    encoder_repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens sequence_bias guidance_scale use_cache output_attentions output_hidden_states
    output_scores output_logits return_dict_in_generate pad_token_id bos_token_id eos_token_id decoder_start_token_id
    """.split()
)
