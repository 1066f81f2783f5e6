/* A table for people: cells are added row by row, and printed in columns when all widths are known. */
#ifndef OUTRIGGER_CLI_TABLE_H
#define OUTRIGGER_CLI_TABLE_H

#include <stdint.h>

enum { TABLE_CELL_MAX = 600, TABLE_COLUMNS_MAX = 16 };

/* Caller-owned: zeroed, with the number of columns. */
struct table {
    char (*cells)[TABLE_CELL_MAX];
    uint32_t cells_count, columns, room;
};

/* Left out when out of memory. */
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints and frees. */
void table_print(struct table *t);

#endif
