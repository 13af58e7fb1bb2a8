"""The range of each setting of the wing of text."""

from pretraining.kinds import COUNT, FLAG, GROUP, INNER, PART, PATHS, POSITIVE, TEXT, Ranges, choice, each, optional

READS = {COUNT: "max_tokens", TEXT: "cache_dir"}
LEARNT = {COUNT: "vocab_size sample_bytes", FLAG: "lowercase"}
SIZES = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings d_model d_kv d_ff "
    "num_layers num_decoder_layers num_heads encoder_layers decoder_layers encoder_ffn_dim decoder_ffn_dim "
    "encoder_attention_heads decoder_attention_heads n_embd n_layer n_head n_positions"
)
DROPOUTS = (
    "hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop dropout_rate dropout "
    "attention_dropout activation_dropout classifier_dropout"
)
RANGES: Ranges = {
    "data": {GROUP: "preparation"},
    "data.preparation": {GROUP: "sentence_splitter"},
    "TextFiles": READS | {PATHS: "path"},
    "HubText": READS | {TEXT: "name cache_dir", POSITIVE: "max_bytes"},
    "StdlibDocs": READS,
    "DocsTopicText": READS,
    "Mixture": READS | {each(GROUP, least=1): "sources"},
    "LabelledTextFiles": READS | {PATHS: "path", GROUP: "columns shares", optional(choice("drop")): "missing"},
    "LabelledTextFiles.columns": {TEXT: "text label"},
    "LabelledTextFiles.shares": {PART: "validation test"},
    "Preparation": {
        choice("paragraphs", "sentences", "lines", "files"): "layout",
        TEXT: "text_column",
        FLAG: "deduplicate",
        optional(COUNT): "workers",
        optional(INNER): "near_duplicates",
        PART: "validation_share test_share",
    },
    "RuleSplitter": {each(TEXT): "abbreviations"},
    "WordPiece": LEARNT,
    "ByteBPE": LEARNT,
    "Unigram": LEARNT,
    "SentinelBPE": LEARNT | {COUNT: "vocab_size sample_bytes sentinels"},
    "PretrainedTokenizer": {TEXT: "path"},
    "ReadTexts": {TEXT: "column", optional(COUNT): "max_tokens"},
    "TokeniseTexts": {optional(COUNT): "max_tokens"},
    "TransformersBackbone": {
        choice("encoder", "causal", "seq2seq"): "architecture",
        choice("mean", "first", "pooler", "last"): "pooling",
        choice("transformers", "fast"): "impl",
        optional(TEXT): "init_from",
        optional(GROUP): "config",
    },
    "TransformersBackbone.config": {TEXT: "model_type", COUNT: SIZES, optional(PART): DROPOUTS},
}
