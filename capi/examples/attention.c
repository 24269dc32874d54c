/* Attention from C, checked against plain loops; and calls that must be refused. Runs on the host and, with
 * semihosting, on a microcontroller: see ../run.sh. */
#include "check.h"

enum { TOKENS = 40, HEADS = 4, KV_HEADS = 2, DIM = 12, V_DIM = 7, MAX = TOKENS * HEADS * DIM };

static float scratch[QKV_ATTENTION_SCRATCH_LEN(TOKENS, TOKENS, DIM, V_DIM)];
static float q[MAX], k[MAX], v[MAX], out[MAX], want[MAX], lse[HEADS * TOKENS], want_lse[HEADS * TOKENS];
static uint16_t k_half[MAX], v_half[MAX], out_half[MAX];
static bool mask[TOKENS * TOKENS];
static float bias[HEADS * TOKENS];

static uint16_t to_bf16(float x) /* exact for these numbers */
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* What query i of head h sees and adds, for the plain loops. */
typedef struct {
    bool causal, has_mask, has_bias, has_sinks;
    float softcap;
    size_t before; /* keys before its own */
    const float *slopes, *sinks;
} plain;

static void plain_attention(plain o, size_t q_len, size_t kv_len)
{
    float p[TOKENS];
    for (size_t h = 0; h < HEADS; h++)
        for (size_t i = 0; i < q_len; i++) {
            size_t g = h / (HEADS / KV_HEADS);
            long own = (long)i + (long)kv_len - (long)q_len;
            float max = -INFINITY, sum = 0;
            for (size_t t = 0; t < kv_len; t++) {
                float s = 0;
                for (size_t d = 0; d < DIM; d++)
                    s += q[(i * HEADS + h) * DIM + d] * k[(t * KV_HEADS + g) * DIM + d];
                s /= sqrtf(DIM);
                if (o.softcap > 0)
                    s = o.softcap * tanhf(s / o.softcap);
                if (o.slopes)
                    s -= o.slopes[h] * fabsf((float)(own - (long)t));
                if (o.has_bias)
                    s += bias[h * kv_len + t];
                if ((o.causal && (long)t > own) || own - (long)t > (long)o.before
                    || (o.has_mask && !mask[i * kv_len + t]))
                    s = -INFINITY;
                p[t] = s;
                max = s > max ? s : max;
            }
            if (o.sinks && o.sinks[h] > max)
                max = o.sinks[h];
            for (size_t t = 0; t < kv_len; t++) {
                p[t] = p[t] == -INFINITY ? 0 : expf(p[t] - max);
                sum += p[t];
            }
            if (o.sinks)
                sum += expf(o.sinks[h] - max);
            for (size_t d = 0; d < V_DIM; d++) {
                float x = 0;
                for (size_t t = 0; t < kv_len; t++)
                    x += p[t] * v[(t * KV_HEADS + g) * V_DIM + d];
                want[(i * HEADS + h) * V_DIM + d] = sum > 0 ? x / sum : 0;
            }
            want_lse[h * q_len + i] = sum > 0 ? max + logf(sum) : -INFINITY;
        }
}

static qkv_heads queries(size_t n)
{
    return (qkv_heads){ .data = q, .len = MAX, .tokens = n, .n_heads = HEADS, .head_dim = DIM };
}
static qkv_heads keys(size_t n)
{
    return (qkv_heads){ .data = k, .len = MAX, .tokens = n, .n_heads = KV_HEADS, .head_dim = DIM };
}
static qkv_heads values(size_t n)
{
    return (qkv_heads){ .data = v, .len = MAX, .tokens = n, .n_heads = KV_HEADS, .head_dim = V_DIM };
}
static qkv_heads_out outputs(size_t n)
{
    return (qkv_heads_out){ .data = out, .len = MAX, .tokens = n, .n_heads = HEADS, .head_dim = V_DIM };
}
static void clear(void)
{
    for (size_t i = 0; i < MAX; i++)
        out[i] = 77.0f;
}

static void attention_is_right(void)
{
    static const float slopes[HEADS] = { 0.25f, 0.0625f, 0.5f, 0 }, sinks[HEADS] = { 0.5f, -1, 3, 0 };
    const qkv_table masked = { .data = mask, .len = sizeof mask, .dtype = QKV_BOOL };
    const qkv_table biased = { .data = bias, .len = HEADS * TOKENS, .dtype = QKV_F32 };
    const size_t sizes[3][2] = { { 1, 33 }, { TOKENS, TOKENS }, { 9, 5 } };
    for (int c = 0; c < 3 * 7; c++) {
        size_t q_len = sizes[c / 7][0], kv_len = sizes[c / 7][1];
        for (size_t i = 0; i < q_len * kv_len; i++)
            mask[i] = i % 3 != 0;
        qkv_table m = masked, b = biased;
        size_t m_sizes[4] = { 1, 1, q_len, kv_len }, b_sizes[4] = { 1, HEADS, 1, kv_len };
        memcpy(m.sizes, m_sizes, sizeof m_sizes);
        memcpy(b.sizes, b_sizes, sizeof b_sizes);
        plain o = { .before = TOKENS };
        qkv_attention_options options = { 0 };
        switch (c % 7) {
        case 1: o.causal = true; options.causal = 1; break;
        case 2:
            o.causal = true, o.before = 3;
            options.causal = 1, options.has_window = 1, options.window_before = 3;
            break;
        case 3: o.softcap = options.softcap = 0.7f; break;
        case 4: o.has_mask = true; options.mask = &m; break;
        case 5: o.has_bias = true; options.bias = &b; break;
        case 6:
            o.slopes = options.alibi_slopes = slopes, o.sinks = options.sinks = sinks;
            options.alibi_slopes_len = options.sinks_len = HEADS;
            break;
        }
        size_t needed = qkv_attention_scratch_len(q_len, kv_len, DIM, V_DIM);
        expect(needed <= sizeof scratch / sizeof *scratch, "the scratch of this program is long enough");
        qkv_heads hq = queries(q_len), hk = keys(kv_len), hv = values(kv_len);
        qkv_heads_out ho = outputs(q_len);
        qkv_error error;
        plain_attention(o, q_len, kv_len);
        clear();
        options.lse = lse, options.lse_len = HEADS * q_len;
        int code = qkv_attention(&hq, &hk, &hv, &ho, &options, scratch, needed, &error);
        succeeds(code, &error, "attention");
        expect(close_to(out, want, q_len * HEADS * V_DIM, 4e-6f), "attention is that of plain loops");
        expect(close_to(lse, want_lse, HEADS * q_len, 4e-6f), "log-sum-exps are those of plain loops");
        expect(out[q_len * HEADS * V_DIM] == 77.0f, "nothing is written behind the output");
        if (c % 7 == 0) {
            clear();
            code = qkv_attention(&hq, &hk, &hv, &ho, NULL, scratch, needed, NULL);
            expect(code == QKV_OK && close_to(out, want, q_len * HEADS * V_DIM, 4e-6f), "without options");
        }
    }
}

#ifndef QKV_NO_HALF
static void caches_are_read_in_place(void)
{
    /* bfloat16 keys and values of 10 tokens: in a ring of 12 slots from slot 7 on, and in pages of 4. */
    enum { LEN = 10, SLOTS = 12, FIRST = 7, PAGE = 4 };
    static const uint32_t table[3] = { 2, 0, 1 };
    for (int layout = QKV_KV_RING; layout <= QKV_KV_PAGES; layout++) {
        for (size_t t = 0; t < LEN; t++) {
            size_t slot = layout == QKV_KV_RING ? (FIRST + t) % SLOTS : table[t / PAGE] * PAGE + t % PAGE;
            for (size_t i = 0; i < KV_HEADS * DIM; i++)
                k_half[slot * KV_HEADS * DIM + i] = to_bf16(k[t * KV_HEADS * DIM + i]);
            for (size_t i = 0; i < KV_HEADS * V_DIM; i++)
                v_half[slot * KV_HEADS * V_DIM + i] = to_bf16(v[t * KV_HEADS * V_DIM + i]);
        }
        qkv_heads hq = queries(2), hk = keys(SLOTS), hv = values(SLOTS);
        hk.data = k_half, hv.data = v_half, hk.dtype = hv.dtype = QKV_BF16;
        qkv_heads_out ho = outputs(2);
        ho.data = out_half, ho.dtype = QKV_BF16;
        qkv_attention_options options = { .causal = 1, .kv_layout = (uint32_t)layout, .kv_len = LEN };
        if (layout == QKV_KV_RING) {
            options.kv_first = FIRST;
        } else {
            hk.batch = hv.batch = SLOTS / PAGE, hk.tokens = hv.tokens = PAGE;
            options.page_table = table, options.page_table_len = 3;
        }
        qkv_error error;
        plain_attention((plain){ .causal = true, .before = TOKENS }, 2, LEN);
        int code = qkv_attention(&hq, &hk, &hv, &ho, &options, scratch, sizeof scratch / sizeof *scratch, &error);
        succeeds(code, &error, "attention over a cache");
        for (size_t i = 0; i < 2 * HEADS * V_DIM; i++) {
            float got = from_bf16(out_half[i]);
            expect(fabsf(got - want[i]) <= fabsf(want[i]) / 250 + 4e-6f, "attention over a cache");
        }
        if (layout == QKV_KV_RING)
            continue;
        /* The first query's sequence has no keys, the second one's all of them. */
        static const size_t q_offsets[] = { 0, 1, 2 }, kv_offsets[] = { 0, 0, LEN };
        options.q_offsets = q_offsets, options.q_offsets_len = 3;
        options.kv_offsets = kv_offsets, options.kv_offsets_len = 3;
        code = qkv_attention(&hq, &hk, &hv, &ho, &options, scratch, sizeof scratch / sizeof *scratch, &error);
        succeeds(code, &error, "packed sequences over pages");
        for (size_t i = 0; i < 2 * HEADS * V_DIM; i++) {
            float got = from_bf16(out_half[i]), right = i < HEADS * V_DIM ? 0 : want[i];
            expect(fabsf(got - right) <= fabsf(right) / 250 + 4e-6f, "packed sequences over pages");
        }
    }
}
#endif

/* Sums of products of multiples of 1/8 are exact: results must be equal. */
static void products_are_right(void)
{
    enum { M = 5, K = 20, N = 18 };
    static float packed[QKV_PACKED_LEN(K, N)];
    const qkv_mat a = { .data = q, .len = M * K, .rows = M, .cols = K };
    const qkv_mat b = { .data = k, .len = K * N, .rows = K, .cols = N };
    /* Every second row of a buffer. */
    const qkv_mat_out c = { .data = out, .len = MAX, .rows = M, .cols = N, .row_stride = 2 * N, .col_stride = 1 };
    const qkv_matmul_options options = { .has_alpha = 1, .alpha = 0.5f, .beta = 2, .bias = v, .bias_len = N };
    const qkv_packed p = { .data = packed, .len = QKV_PACKED_LEN(K, N), .k = K, .n = N };
    qkv_error error;
    succeeds(qkv_pack(&b, QKV_F32, packed, QKV_PACKED_LEN(K, N), &error), &error, "packing");
    for (int which = 0; which < 2; which++) {
        clear();
        int code = which == 0 ? qkv_matmul(&a, &b, &c, &options, NULL, qkv_matmul_scratch_len(M, K, N), &error)
                              : qkv_matmul_packed(&a, &p, &c, &options, NULL, 0, &error);
        succeeds(code, &error, "a product");
        for (size_t i = 0; i < M; i++)
            for (size_t j = 0; j < N; j++) {
                float sum = 0;
                for (size_t t = 0; t < K; t++)
                    sum += q[i * K + t] * k[t * N + j];
                expect(out[2 * i * N + j] == 0.5f * sum + 154 + v[j], "C = A B / 2 + 2 C + bias");
            }
        expect(out[N] == 77.0f, "rows between those of C stay");
    }
}

static void rows_are_right(void)
{
    enum { ROWS = 3, COLS = 21 };
    const qkv_mat x = { .data = q, .len = MAX, .rows = ROWS, .cols = COLS };
    const qkv_mat_out y = { .data = out, .len = MAX, .rows = ROWS, .cols = COLS };
    float sums[ROWS];
    qkv_error error;
    succeeds(qkv_softmax_rows(&x, &y, &error), &error, "softmax");
    succeeds(qkv_log_sum_exp_rows(&x, sums, ROWS, &error), &error, "log-sum-exp");
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < COLS; j++)
            expect(fabsf(out[i * COLS + j] - expf(q[i * COLS + j] - sums[i])) < 1e-6f, "softmax of rows");
    memcpy(want, out, sizeof want);
    memcpy(out, q, sizeof out);
    succeeds(qkv_softmax_rows_in_place(&y, &error), &error, "softmax in place");
    expect(memcmp(out, want, ROWS * COLS * sizeof *out) == 0, "softmax in place has the same bits");
}

static void wrong_calls_are_refused(void)
{
    const size_t n = sizeof scratch / sizeof *scratch;
    qkv_error e;
    clear();
    for (int c = 0; c < 22; c++) {
        qkv_heads hq = queries(4), hk = keys(6), hv = values(6);
        qkv_heads_out ho = outputs(4);
        qkv_attention_options o = { .causal = 1 };
        const qkv_heads *pq = &hq;
        float *s = scratch;
        size_t len = n;
        int as = QKV_ERROR_OTHER;
        const char *what = "";
        switch (c) {
        case 0: pq = NULL, as = QKV_ERROR_NULL, what = "q"; break;
        case 1: hk.data = NULL, as = QKV_ERROR_NULL, what = "k"; break;
        case 2: s = NULL, as = QKV_ERROR_NULL, what = "scratch"; break;
        case 3: hv.data = (const char *)v + 2, as = QKV_ERROR_MISALIGNED, what = "v"; break;
        case 4: hq.dtype = 9, as = QKV_ERROR_DTYPE, what = "q"; break;
        case 5: ho.dtype = QKV_BOOL, as = QKV_ERROR_DTYPE, what = "out"; break;
        case 6: o.causal = 2, as = QKV_ERROR_OPTION, what = "causal"; break;
        case 7: o.offset = 3, as = QKV_ERROR_OPTION, what = "has_offset"; break;
        case 8: o.softcap = NAN, as = QKV_ERROR_OPTION, what = "softcap"; break;
        case 9: o.kv_layout = 7, as = QKV_ERROR_OPTION, what = "kv_layout"; break;
        case 10: o.tier = 3, as = QKV_ERROR_OPTION, what = "tier"; break;
        case 11: ho.data = q, as = QKV_ERROR_OVERLAP, what = "out"; break;
        case 12: s = out, len = 8, as = QKV_ERROR_OVERLAP, what = "scratch"; break;
        case 13: hk.len = 6 * KV_HEADS * DIM - 1, as = QKV_ERROR_BUFFER, what = "k"; break;
        case 14: hq.len = SIZE_MAX / 2, as = QKV_ERROR_OVERFLOW, what = "q"; break;
        case 15: hq.tokens = SIZE_MAX, hq.token_stride = 3, as = QKV_ERROR_OVERFLOW, what = "q"; break;
        case 16: ho.token_stride = 1, ho.head_stride = 1, as = QKV_ERROR_STRIDES, what = "out"; break;
        case 17: hv.tokens = 5, as = QKV_ERROR_DIM, what = "kv_len of V"; break;
        case 18: hq.n_heads = 3, as = QKV_ERROR_DIM, what = "n_heads of the output"; break;
        case 19: o.sinks = v, o.sinks_len = 3, as = QKV_ERROR_DIM, what = "n_heads (length of the sinks)"; break;
        case 20: o.lse = lse, o.lse_len = 7, as = QKV_ERROR_DIM, what = "batch * n_heads * q_len (length of lse)"; break;
        case 21: len = 3, as = QKV_ERROR_SCRATCH, what = "scratch"; break;
        }
        refused(qkv_attention(pq, &hk, &hv, &ho, &o, s, len, &e), as, &e, what, out, MAX);
        if (c == 13)
            expect(e.expected == 6 * KV_HEADS * DIM && e.got == e.expected - 1, "the numbers of an error");
    }
    qkv_mat a = { .data = q, .len = 6, .rows = 2, .cols = 3 }, b = { .data = k, .len = 8, .rows = 4, .cols = 2 };
    qkv_mat_out c = { .data = out, .len = 4, .rows = 2, .cols = 2 };
    qkv_matmul_options o = { .alpha = 2 };
    refused(qkv_matmul(&a, &b, &c, NULL, NULL, 0, &e), QKV_ERROR_DIM, &e, "k (rows of B)", out, MAX);
    refused(qkv_matmul(&a, &b, &c, &o, NULL, 0, &e), QKV_ERROR_OPTION, &e, "has_alpha", out, MAX);
    refused(qkv_pack(&b, QKV_F32, out, 63, &e), QKV_ERROR_BUFFER, &e, "storage", out, MAX);
    refused(qkv_pack(&b, 77, out, 64, &e), QKV_ERROR_DTYPE, &e, "dtype", out, MAX);
    refused(qkv_softmax_rows(&a, &c, &e), QKV_ERROR_DIM, &e, "columns of the output", out, MAX);
    refused(qkv_log_sum_exp_rows(&a, out, 1, &e), QKV_ERROR_DIM, &e, "length of the output (rows)", out, MAX);
    refused(qkv_softmax_rows_in_place(NULL, &e), QKV_ERROR_NULL, &e, "x", out, MAX);
    /* Details that lie in an output: the code alone. */
    union { qkv_error e; float f[64]; unsigned char bytes[256]; } both;
    memset(&both, 7, sizeof both);
    qkv_mat_out within = { .data = both.f, .len = 6, .rows = 2, .cols = 3 };
    int code = qkv_softmax_rows(&a, &within, &both.e);
    for (size_t i = 0; i < sizeof both; i++)
        code = both.bytes[i] == 7 ? code : -1;
    expect(code == QKV_ERROR_OVERLAP, "an error in an output is refused, and nothing written");
    expect(qkv_attention(NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL) == QKV_ERROR_NULL, "all NULL");
}

int main(void)
{
    numbers(q, MAX, 1);
    numbers(k, MAX, 2);
    numbers(v, MAX, 3);
    numbers(bias, HEADS * TOKENS, 4);
    attention_is_right();
#ifndef QKV_NO_HALF
    caches_are_read_in_place();
#endif
    products_are_right();
    rows_are_right();
    wrong_calls_are_refused();
    return result("attention.c");
}
