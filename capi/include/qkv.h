/* qkv for C: matrix products and attention over memory that you own.
 *
 * Every function that can refuse returns QKV_OK, or an error code and has then written nothing but, if
 * it is not NULL, the qkv_error that it was given. Nothing is allocated and nothing is global: calls may
 * run in several threads and in interrupts.
 *
 * A pointer is valid for as many elements as the length beside it says, and aligned for them; with a
 * length of 0 it may be NULL. What is written (outputs, scratch, log-sum-exps) overlaps nothing else of
 * the call. Sizes, strides and lengths are in elements. A struct of zeros has every option at its
 * default.
 *
 * Made from the source by `cargo run --example header`. */


#ifndef QKV_H
#define QKV_H

#include <stddef.h>
#include <stdint.h>

/* Lengths for static arrays: at least what qkv_matmul_scratch_len, qkv_attention_scratch_len and qkv_packed_len return,
 * and for scratch at least 1. For Arm of 32 bits, RISC-V and Xtensa, where the library has no vectors, scratch is up to
 * 128 floats longer, elsewhere it may be many times as long. A scratch that is too short is refused. Arguments are not negative
 * and are used more than once. */
#define QKV_LEAST(a, b) ((size_t)(a) < (size_t)(b) ? (size_t)(a) : (size_t)(b))
#define QKV_PACKED_LEN(k, n) ((size_t)(k) * (((size_t)(n) + 15) / 16 * 16))
#if defined(__arm__) || defined(__riscv) || defined(__xtensa__)
#define QKV_BLOCKED_LEN(m, k, n) \
  (16 + QKV_LEAST(m, 8) * (16 + QKV_LEAST(k, 512) + ((k) > 512 ? QKV_LEAST((n) + 15, 512) : 0)))
#define QKV_ATTENTION_SCRATCH_LEN(q_len, kv_len, head_dim, v_head_dim) \
  (316 + 4 * (size_t)(head_dim) + ((kv_len) > 1024 ? 8 : 4) * ((size_t)(v_head_dim) + 3))
#else
#define QKV_BLOCKED_LEN(m, k, n) \
  (1168 + QKV_LEAST(k, 512) * (72 + QKV_LEAST((n) + 15, 2048)) \
   + ((k) > 512 ? QKV_LEAST(m, 288) * QKV_LEAST((n) + 15, 512) : 0))
#define QKV_ATTENTION_SCRATCH_LEN(q_len, kv_len, head_dim, v_head_dim) \
  (9040 + 256 * ((size_t)(head_dim) + 3) + ((kv_len) > 1024 ? 448 : 256) * ((size_t)(v_head_dim) + 15))
#endif
#define QKV_MATMUL_SCRATCH_LEN(m, k, n) \
  ((m) > 64 || (k) > 64 || (n) > 64 ? QKV_BLOCKED_LEN(m, k, n) : (size_t)1)

// 32-bit floats.
#define QKV_F32 0

// IEEE binary16.
#define QKV_F16 1

// bfloat16: the upper half of a 32-bit float.
#define QKV_BF16 2

// Of a mask: C's `bool`, bytes of 0 and 1.
#define QKV_BOOL 3

// Of a mask: bits in bytes, key 0 in the lowest bit of the first one.
#define QKV_BITS 4

// The fastest of this processor.
#define QKV_TIER_BEST 0

// One number at a time, as a microcontroller does it: the same bits as there, unless that was built with `qkv_fma`.
#define QKV_TIER_SCALAR 1

// What every processor of the build's target has: the same bits again, in vectors.
#define QKV_TIER_PORTABLE 2

// The call has done what it says.
#define QKV_OK 0

// A pointer is `NULL` where there must be something.
#define QKV_ERROR_NULL 1

// An address is not a multiple of what its type asks for.
#define QKV_ERROR_MISALIGNED 2

// A dtype that does not exist, has no meaning there, or was not built in.
#define QKV_ERROR_DTYPE 3

// An option has a value without a meaning, or lacks the `has_` field that makes it count.
#define QKV_ERROR_OPTION 4

// Memory that is written overlaps other memory of the call.
#define QKV_ERROR_OVERLAP 5

// A buffer has fewer elements than its sizes and strides reach.
#define QKV_ERROR_BUFFER 6

// Sizes times strides, or a token's number or position, do not fit in `size_t`, or a buffer does not fit in memory.
#define QKV_ERROR_OVERFLOW 7

// Two elements of an output would share a place.
#define QKV_ERROR_STRIDES 8

// Two arguments disagree on a size, or one is larger than another allows.
#define QKV_ERROR_DIM 9

// The scratch is shorter than the `_scratch_len` function says.
#define QKV_ERROR_SCRATCH 10

// Refused for a reason that this version has no code for.
#define QKV_ERROR_OTHER 11

// Keys and values lie in rows: `k` and `v` hold them in order.
#define QKV_KV_ROWS 0

// Key t is in slot `(kv_first + t) % k->tokens`, for `kv_len` keys.
#define QKV_KV_RING 1

// `k` and `v` are pools of pages, as a batch: key t of sequence b is token `t % k->tokens` of page
// `page_table[b * pages + t / k->tokens]`, for up to `kv_len` keys. Entries without a key that some query sees for its
// place, as those before a sliding window, are not used.
#define QKV_KV_PAGES 2

// A matrix to read. Element (i, j) is `data[i * row_stride + j * col_stride]`; with both strides 0 rows
// follow each other.
typedef struct qkv_mat {
  const void *data;
  // Elements from `data` on that are there.
  size_t len;
  uint32_t dtype;
  size_t rows;
  size_t cols;
  size_t row_stride;
  size_t col_stride;
} qkv_mat;

// A matrix to write, otherwise the same. No two elements may share a place.
typedef struct qkv_mat_out {
  void *data;
  // Elements from `data` on that are there.
  size_t len;
  uint32_t dtype;
  size_t rows;
  size_t cols;
  size_t row_stride;
  size_t col_stride;
} qkv_mat_out;

// `C = alpha A B + beta C + bias`. All zeros is `C = A B`.
typedef struct qkv_matmul_options {
  // Whether `alpha` counts; else it must be 0, and the factor is 1.
  uint32_t has_alpha;
  // The factor of the product. With 0, A and B are not read.
  float alpha;
  // The factor of what C held. With 0, C is not read.
  float beta;
  // A row of n numbers that is added to every row of C, or NULL.
  const float *bias;
  size_t bias_len;
  // Which instructions: one of the tiers.
  uint32_t tier;
} qkv_matmul_options;

// The details of a refusal. Every call that is given one writes it, code 0 where it succeeds. It may overlap nothing
// else of the call: where that is noticed, before anything else is wrong, the code is returned and nothing written.
typedef struct qkv_error {
  // What the call returned.
  int code;
  // The argument, field or size that was refused, ending in 0.
  char what[64];
  // What it should be at least, at most or exactly, where that is a number; else 0.
  size_t expected;
  // What it is.
  size_t got;
} qkv_error;

// A matrix of k x n that `qkv_pack` has packed. Its layout is the same on every target, so that the elements
// may be a constant in flash.
typedef struct qkv_packed {
  const void *data;
  // Elements: exactly `qkv_packed_len(k, n)`.
  size_t len;
  uint32_t dtype;
  size_t k;
  size_t n;
} qkv_packed;

// Heads of queries, keys or values. Feature d of token t of head h of sequence b is
// `data[b * batch_stride + t * token_stride + h * head_stride + d]`. With all strides 0 the memory is
// `[batch][tokens][n_heads][head_dim]`. A batch of 0 is one of 1.
typedef struct qkv_heads {
  const void *data;
  // Elements from `data` on that are there.
  size_t len;
  uint32_t dtype;
  size_t batch;
  size_t tokens;
  size_t n_heads;
  size_t head_dim;
  size_t batch_stride;
  size_t token_stride;
  size_t head_stride;
} qkv_heads;

// Heads of an output, otherwise the same.
typedef struct qkv_heads_out {
  void *data;
  // Elements from `data` on that are there.
  size_t len;
  uint32_t dtype;
  size_t batch;
  size_t tokens;
  size_t n_heads;
  size_t head_dim;
  size_t batch_stride;
  size_t token_stride;
  size_t head_stride;
} qkv_heads_out;

// A mask or a bias. `sizes` are batch, heads, queries and keys; all but the keys may be 1, for what is the
// same for all. Key t of query i of head h of sequence b is `data[b * strides[0] + h * strides[1] + i *
// strides[2] + t]`; with all strides 0 the memory is `[batch][heads][queries][keys]`. In a mask of bits the
// last size and the strides are in bytes.
typedef struct qkv_table {
  const void *data;
  // Elements from `data` on that are there.
  size_t len;
  uint32_t dtype;
  size_t sizes[4];
  size_t strides[3];
} qkv_table;

// The options of attention. All zeros is plain attention: every query sees every key, the scale is
// `1 / sqrt(head_dim)`. A pointer that is NULL is an option that is not used. Lengths are in elements.
typedef struct qkv_attention_options {
  // The factor of the scores; 0 is `1 / sqrt(head_dim)`.
  float scale;
  // A score s becomes `softcap * tanh(s / softcap)`; 0 is none.
  float softcap;
  // 1: a query sees its own key and those before it. The last query's own key is the last key, unless an
  // offset says otherwise.
  uint32_t causal;
  // 1: query i's own key is `i + offset`.
  uint32_t has_offset;
  ptrdiff_t offset;
  // 1: a query sees so many keys before its own and so many after it; `SIZE_MAX` is all of them.
  uint32_t has_window;
  size_t window_before;
  size_t window_after;
  // Keys of each sequence; those from there on are not read.
  const size_t *kv_lens;
  size_t kv_lens_len;
  // The first key of each sequence; those before it are not read.
  const size_t *kv_starts;
  size_t kv_starts_len;
  // Packed sequences: queries, and outputs, of sequence b are the tokens `q_offsets[b]` to
  // `q_offsets[b + 1]` of a batch of 1. One more than there are sequences: they begin with 0 and end with
  // all tokens.
  const size_t *q_offsets;
  size_t q_offsets_len;
  // The same for keys and values.
  const size_t *kv_offsets;
  size_t kv_offsets_len;
  // A query sees a key where the mask is 1. Its dtype is QKV_BOOL or QKV_BITS.
  const struct qkv_table *mask;
  // Added to the scores; a key with minus infinity is not seen.
  const struct qkv_table *bias;
  // Linear biases: a slope for each query head.
  const float *alibi_slopes;
  size_t alibi_slopes_len;
  // One more score for each query head, without a value.
  const float *sinks;
  size_t sinks_len;
  // Where the log-sum-exps go: `[batch][n_heads][q_len]`.
  float *lse;
  size_t lse_len;
  // How keys and values lie: QKV_KV_ROWS, QKV_KV_RING or QKV_KV_PAGES. What follows is for rings and pages, and
  // else 0.
  uint32_t kv_layout;
  size_t kv_first;
  size_t kv_len;
  // `[sequences][pages]`; as many sequences as there are of queries, or one, that of all keys, with `kv_offsets`.
  const uint32_t *page_table;
  size_t page_table_len;
  // Which instructions: one of the tiers.
  uint32_t tier;
} qkv_attention_options;

// Rotary embedding by a table of yours: at each position a pair (x1, x2) of features becomes
// `(x1 cos - x2 sin, x2 cos + x1 sin)`. The bits are the same on every target.
typedef struct qkv_rotary {
  // `[positions][2][dim / 2]`: for each position the cosines of all pairs, then their sines. Where positions grow
  // for ever, as over a ring, the angles of the next token alone will do, as those of position 0.
  const float *table;
  size_t table_len;
  // So many features of each head are rotated, the first ones; 0 is all of them.
  size_t dim;
  // 1: features `2 i` and `2 i + 1` are a pair, and not `i` and `i + dim / 2`.
  uint32_t interleaved;
  // For `qkv_rotate`, packed sequences: those of sequence b are the tokens `offsets[b]` to `offsets[b + 1]` of a
  // batch of 1. One more than there are sequences: they begin with 0 and end with
  // all tokens. `qkv_append` has its own.
  const size_t *offsets;
  size_t offsets_len;
} qkv_rotary;

// How tokens are appended. All zeros is to rows, without rotation.
typedef struct qkv_append_options {
  // Tokens are rotated on their way, as keys are; or NULL.
  const struct qkv_rotary *rotary;
  // The position of each sequence's first new token, where that is not its number.
  const size_t *positions;
  size_t positions_len;
  // Packed sequences: new tokens of sequence b are the tokens `offsets[b]` to `offsets[b + 1]` of a batch of 1.
  // One more than there are sequences: they begin with 0 and end with all tokens.
  const size_t *offsets;
  size_t offsets_len;
  // How the cache lies: QKV_KV_ROWS, QKV_KV_RING or QKV_KV_PAGES.
  uint32_t kv_layout;
  // `[sequences][pages]`, for pages, and else NULL.
  const uint32_t *page_table;
  size_t page_table_len;
} qkv_append_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// A sentence for a code, ending in 0 and never to be freed.
const char *qkv_error_text(int code);

// Floats of scratch for a product of m x k by k x n: 0 up to 64 in each.
size_t qkv_matmul_scratch_len(size_t m, size_t k, size_t n);

// `C = alpha A B + beta C + bias`. A is m x k, B is k x n, C is m x n. A transposed operand has its sizes and
// strides swapped. `options` may be NULL. Sums are 32-bit floats, rounded once.
int qkv_matmul(const struct qkv_mat *a,
               const struct qkv_mat *b,
               const struct qkv_mat_out *c,
               const struct qkv_matmul_options *options,
               float *scratch,
               size_t scratch_len,
               struct qkv_error *error);

// Elements of a packed matrix of k x n.
size_t qkv_packed_len(size_t k, size_t n);

// Packs B into `len` elements of `dtype`, at least `qkv_packed_len(b->rows, b->cols)`, rounding where that is
// narrower.
int qkv_pack(const struct qkv_mat *b,
             uint32_t dtype,
             void *storage,
             size_t len,
             struct qkv_error *error);

// `qkv_matmul` with B packed.
int qkv_matmul_packed(const struct qkv_mat *a,
                      const struct qkv_packed *b,
                      const struct qkv_mat_out *c,
                      const struct qkv_matmul_options *options,
                      float *scratch,
                      size_t scratch_len,
                      struct qkv_error *error);

// Floats of scratch for any number of sequences and heads, and any types. For packed sequences the lengths
// are those of the longest one.
size_t qkv_attention_scratch_len(size_t q_len,
                                 size_t kv_len,
                                 size_t head_dim,
                                 size_t v_head_dim);

// `out = softmax(scale Q K^T) V` for each head. The query heads are a multiple of the key heads. `options`
// may be NULL.
int qkv_attention(const struct qkv_heads *q,
                  const struct qkv_heads *k,
                  const struct qkv_heads *v,
                  const struct qkv_heads_out *out,
                  const struct qkv_attention_options *options,
                  float *scratch,
                  size_t scratch_len,
                  struct qkv_error *error);

// Appends new keys or values to a cache, converted to its type. Token i of sequence b is number
// `appended[b] + i` of its sequence: that is its place and, where it is rotated, its position. `appended_len` is
// how many sequences there are. The rest of the cache is not touched. `options` may be NULL.
//
// Number n goes to token n of rows, to slot `n % cache->tokens` of a ring, or to token `n % cache->tokens` of
// page `page_table[b * pages + n / cache->tokens]`. Of more new tokens than a ring has slots the last ones are
// written. After n tokens in all attention takes a ring with a `kv_len` of n, or from `n > cache->tokens` on with
// one of `cache->tokens` and a `kv_first` of `n % cache->tokens`.
int qkv_append(const struct qkv_heads *tokens,
               const size_t *appended,
               size_t appended_len,
               const struct qkv_heads_out *cache,
               const struct qkv_append_options *options,
               struct qkv_error *error);

// Rotates heads where they are, as queries are: token i of sequence b is at position `first[b] + i`. `first_len` is
// how many sequences there are.
int qkv_rotate(const struct qkv_heads_out *x,
               const size_t *first,
               size_t first_len,
               const struct qkv_rotary *rotary,
               struct qkv_error *error);

// The softmax of each row of `x` to the same row of `out`.
int qkv_softmax_rows(const struct qkv_mat *x,
                     const struct qkv_mat_out *out,
                     struct qkv_error *error);

// The softmax of each row of `x` over the row itself.
int qkv_softmax_rows_in_place(const struct qkv_mat_out *x, struct qkv_error *error);

// `out[i]` is the natural logarithm of the sum of e^x over row i of `x`; `out_len` is its rows.
int qkv_log_sum_exp_rows(const struct qkv_mat *x,
                         float *out,
                         size_t out_len,
                         struct qkv_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QKV_H */
