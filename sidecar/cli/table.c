#include "sidecar/cli/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void table_cell(struct table *t, const char *format, ...)
{
    va_list args;

    if (t->cells_count == t->room) {
        uint32_t room = t->room != 0 ? 2 * t->room : 64;
        char(*grown)[TABLE_CELL_MAX] = realloc(t->cells, room * sizeof *grown);

        if (grown == NULL) {
            return;
        }
        t->cells = grown;
        t->room = room;
    }
    va_start(args, format);
    vsnprintf(t->cells[t->cells_count++], TABLE_CELL_MAX, format, args);
    va_end(args);
}

void table_print(struct table *t)
{
    int widths[TABLE_COLUMNS_MAX] = {0};

    for (uint32_t i = 0; i < t->cells_count; i++) {
        int bytes = (int)strlen(t->cells[i]);

        widths[i % t->columns] = bytes > widths[i % t->columns] ? bytes : widths[i % t->columns];
    }
    for (uint32_t i = 0; i < t->cells_count; i++) {
        bool last = (i + 1) % t->columns == 0;

        printf("%-*s%s", last ? 0 : widths[i % t->columns], t->cells[i], last ? "\n" : "  ");
    }
    free(t->cells);
}
