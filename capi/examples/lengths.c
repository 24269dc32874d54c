/* The lengths for static arrays against the functions, for many sizes: enough, and where the library has no vectors
 * hardly more. */
#include "check.h"

static const size_t sizes[] = { 0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 48, 63, 64, 65, 71, 72, 73, 127, 144, 145, 192, 193,
                                287, 288, 289, 500, 511, 512, 513, 600, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 5000 };
enum { N = sizeof sizes / sizeof *sizes };

/* That they are constants. */
static float arrays[QKV_MATMUL_SCRATCH_LEN(3, 4, 5) + QKV_ATTENTION_SCRATCH_LEN(9, 9, 8, 8) + QKV_PACKED_LEN(2, 3)];

/* The header promises 128 floats at most, of what has no vectors. */
static bool fits(size_t there, size_t needed)
{
#if defined(__arm__)
    return there >= needed && there >= 1 && there <= needed + 128;
#else
    return there >= needed && there >= 1;
#endif
}

static bool product_fits(size_t m, size_t k, size_t n)
{
    return fits(QKV_MATMUL_SCRATCH_LEN(m, k, n), qkv_matmul_scratch_len(m, k, n));
}

static bool attention_fits(size_t q_len, size_t kv_len, size_t head_dim, size_t v_head_dim)
{
    return fits(QKV_ATTENTION_SCRATCH_LEN(q_len, kv_len, head_dim, v_head_dim),
                qkv_attention_scratch_len(q_len, kv_len, head_dim, v_head_dim));
}

int main(void)
{
    bool products = true, attention = true, packed = true;
    for (size_t a = 0; a < N; a++)
        for (size_t b = 0; b < N; b++) {
            packed &= QKV_PACKED_LEN(sizes[a], sizes[b]) == qkv_packed_len(sizes[a], sizes[b]);
            for (size_t c = 0; c < N; c++) {
                /* Without elements or queries the functions say 0, whatever the other sizes. */
                products &= product_fits(sizes[a] + (a == 0), sizes[b] + (b == 0), sizes[c] + (c == 0));
                for (size_t d = 0; d < N; d += 2)
                    attention &= attention_fits(sizes[d] + (d == 0), sizes[c], sizes[b], sizes[a]);
            }
        }
    /* Sizes in between, of 1 to 2^r. */
    uint32_t seed = 1;
    size_t some[4];
    for (int i = 0; i < 200000; i++) {
        for (int j = 0; j < 4; j++) {
            seed = seed * 747796405u + 2891336453u;
            some[j] = 1 + (seed >> 12) % (1u << (1 + (seed >> 8) % 13));
        }
        products &= product_fits(some[0], some[1], some[2]);
        attention &= attention_fits(some[0], some[1], some[2], some[3]);
    }
    expect(products, "QKV_MATMUL_SCRATCH_LEN is enough");
    expect(attention, "QKV_ATTENTION_SCRATCH_LEN is enough");
    expect(packed, "QKV_PACKED_LEN is qkv_packed_len");
    expect(sizeof arrays > 0, "arrays of constant lengths");
    return result("lengths.c");
}
