/*
 * Chooses the instruction set: owns the table in use. kernels_setup is called once, before other threads start; tests
 * call it again between runs to repeat them at each level. Knows nothing of what the kernels compute.
 */
#include "kernels/dispatch.h"

#include <string.h>

#include "kernels/ops.h"
#if defined(__x86_64__)
#include "kernels/x86/x86.h"
#endif

struct kernels_ops kernels_ops;
static enum kernels_isa isa_current = KERNELS_ISA_C;

static const char *const isa_names[KERNELS_ISA_COUNT] = {"c", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};

/* Before main, so that the table is never empty, whoever forgets kernels_setup. */
__attribute__((constructor)) static void table_fill_c(void)
{
    kernels_ops_fill_matmul_c(&kernels_ops);
    kernels_ops_fill_vector_c(&kernels_ops);
    kernels_ops_fill_attention_c(&kernels_ops);
}

enum kernels_isa kernels_isa_detect(void)
{
#if defined(__x86_64__)
    return kernels_x86_detect();
#else
    return KERNELS_ISA_C;
#endif
}

enum kernels_isa kernels_setup(enum kernels_isa max)
{
    enum kernels_isa best = kernels_isa_detect();
    isa_current = max < best ? max : best;
    table_fill_c();
#if defined(__x86_64__)
    kernels_x86_fill(isa_current, &kernels_ops);
#endif
    return isa_current;
}

enum kernels_isa kernels_isa_current(void)
{
    return isa_current;
}

const char *kernels_isa_name(enum kernels_isa isa)
{
    return isa_names[isa];
}

int kernels_isa_parse(const char *name, enum kernels_isa *ret_isa, struct err *err)
{
    for (int isa = 0; isa < KERNELS_ISA_COUNT; isa++) {
        if (strcmp(name, isa_names[isa]) == 0) {
            *ret_isa = (enum kernels_isa)isa;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "unknown instruction set \"%s\": expected c, avx2, avx512, avx512_vnni or avx512_bf16", name);
}
