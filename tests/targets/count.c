/*
 * A plugin of qemu that counts executed instructions between two functions of the guest.
 *
 *     gcc -O2 -fPIC -shared -o count.so count.c
 *     qemu-x86_64 -d plugin -D LOG -plugin ./count.so,start=ADDRESS,stop=ADDRESS PROGRAM
 *
 * LOG gets a line for each call of `stop`: the number of instructions since the first one of `start`. Each is
 * counted by itself, not by blocks of code: blocks are left early, where an instruction repeats itself.
 * The program has one thread.
 *
 * Debian 12 has qemu 7.2 with plugins, but not their header. What is declared here is of its interface,
 * version 1.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb; /* A block of instructions. */
struct qemu_plugin_insn;
enum operation { ADD_U64 };
enum registers { NO_REGISTERS };
typedef void on_translation(uint64_t id, struct qemu_plugin_tb *block);
typedef void on_execution(unsigned cpu, void *unused);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation *call);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t at);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *instruction, enum operation operation,
                                                void *number, uint64_t by);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction, on_execution *call,
                                            enum registers registers, void *unused);
void qemu_plugin_outs(const char *text);

int qemu_plugin_version = 1;

static uint64_t executed, at_start, start, stop;

static void started(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    at_start = executed;
}

static void stopped(unsigned cpu, void *unused)
{
    char line[32];
    (void)cpu, (void)unused;
    snprintf(line, sizeof line, "%" PRIu64 "\n", executed - at_start);
    qemu_plugin_outs(line);
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(instruction);
        qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, &executed, 1);
        if (address == start)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, started, NO_REGISTERS, NULL);
        if (address == stop)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, stopped, NO_REGISTERS, NULL);
    }
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "start=", 6))
            start = strtoull(argv[i] + 6, NULL, 16);
        else if (!strncmp(argv[i], "stop=", 5))
            stop = strtoull(argv[i] + 5, NULL, 16);
    }
    if (!start || !stop) {
        fputs("count: start=ADDRESS,stop=ADDRESS are missing\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
