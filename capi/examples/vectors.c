/* What a Cortex-M needs before main: its vector table, and the FPU switched on. */
extern void _start(void);

static void reset(void)
{
    *(volatile unsigned *)0xE000ED88 |= 0xf << 20;
    __asm__ volatile("dsb; isb");
    _start();
}

__attribute__((section(".vectors"), used)) static void *const vectors[2] = { (void *)0x20400000, (void *)reset };
