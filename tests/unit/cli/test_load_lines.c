#include "sidecar/cli/load_lines.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static struct load_reader reader_of(const char *text)
{
    return (struct load_reader){.file = fmemopen((void *)text, strlen(text), "r")};
}

static void reader_close(struct load_reader *r)
{
    fclose(r->file);
    free(r->buffer);
}

Test(load_lines, one_object_a_line)
{
    static const struct {
        const char *line;
        bool ok, has_id;
    } cases[] = {
        {"{}", true, false},
        {"{\"id\":\"a\"}", true, true},
        {"{ \"id\" : \"a\" , \"vector\":[1]}", true, true},
        {"{\"vector\":[1],\"id\":\"a\"}", true, true},
        {"{\"metadata\":{\"id\":\"a\"}}", true, false}, /* of the metadata, not of the point */
        {"{\"a\":\"id\"}", true, false},
        {"{\"a\":\"}{\\\"\",\"b\":\"\\\\\"}", true, false},
        {"", false, false},
        {"[]", false, false},
        {"7", false, false},
        {"{", false, false},
        {"{\"a\":\"", false, false},
        {"{\"a\":\"\\", false, false},
        {"{}{}", false, false},
        {"{},{}", false, false}, /* two points in one line */
        {"{}]}", false, false},  /* would end the request's list */
        {"{}x", false, false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool has_id;
        bool ok = load_lines_check(cases[i].line, strlen(cases[i].line), &has_id);

        cr_assert(eq(int, ok, cases[i].ok), "%s", cases[i].line);
        if (ok) {
            cr_assert(eq(int, has_id, cases[i].has_id), "%s", cases[i].line);
        }
    }
}

Test(load_lines, batches_with_numbers_of_lines)
{
    struct load_reader r = reader_of("{\"id\":\"a\"}\n\n  {\"id\":\"b\"}  \r\n{\"id\":\"c\"}");
    struct load_lines batch = {0};
    size_t bytes;
    char *body;

    cr_assert(zero(int, load_lines_read(&r, &batch, 2, NULL)));
    cr_assert(eq(u32, batch.count, 2));
    cr_assert(eq(u64, batch.numbers[1], 3));
    body = load_lines_body(&batch, 0, 2, &bytes);
    cr_assert(eq(str, body, "{\"points\":[{\"id\":\"a\"},{\"id\":\"b\"}]}"));
    cr_assert(eq(sz, bytes, strlen(body)));
    free(body);
    body = load_lines_body(&batch, 0, 1, &bytes);
    cr_assert(eq(str, body, "{\"points\":[{\"id\":\"a\"}]}"));
    free(body);
    body = load_lines_body(&batch, 1, 2, &bytes);
    cr_assert(eq(str, body, "{\"points\":[{\"id\":\"b\"}]}"));
    free(body);
    cr_assert(zero(int, load_lines_read(&r, &batch, 2, NULL)));
    cr_assert(eq(u32, batch.count, 1));
    cr_assert(eq(u64, batch.numbers[0], 4));
    cr_assert(zero(int, load_lines_read(&r, &batch, 2, NULL)));
    cr_assert(eq(u32, batch.count, 0));
    load_lines_close(&batch);
    reader_close(&r);
}

/* The lines before a bad one are kept, those behind it come with the next call. */
Test(load_lines, a_bad_line_is_named_and_passed_over)
{
    struct load_reader r = reader_of("{\"id\":\"a\"}\nnonsense\n{\"id\":\"b\"}\n");
    struct load_lines batch = {0};
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, load_lines_read(&r, &batch, 9, &msg), OTR_INVALID));
    cr_assert(eq(u64, r.line, 2));
    cr_assert(eq(u32, batch.count, 1));
    cr_assert(zero(int, load_lines_read(&r, &batch, 9, &msg)));
    cr_assert(eq(u32, batch.count, 1));
    cr_assert(eq(u64, batch.numbers[0], 3));
    load_lines_close(&batch);
    reader_close(&r);
}

/* A repeated request must name the same points: one without id gets one here, not at the server. */
Test(load_lines, a_point_without_id_gets_one)
{
    struct load_reader r = reader_of("{\"vector\":[1]}\n{ }\n");
    struct load_lines batch = {0};
    size_t bytes;
    char *body;
    cJSON *json;
    const char *first, *second;

    cr_assert(zero(int, load_lines_read(&r, &batch, 9, NULL)));
    body = load_lines_body(&batch, 0, 2, &bytes);
    json = cJSON_Parse(body);
    cr_assert(ne(ptr, json, NULL), "%s", body);
    first = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(json->child, 0), "id"));
    second = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(json->child, 1), "id"));
    cr_assert(eq(sz, strlen(first), 36));
    cr_assert(first[14] == '4' && strchr("89ab", first[19]) != NULL);
    cr_assert(ne(str, (char *)first, (char *)second));
    cr_assert(cJSON_IsArray(cJSON_GetObjectItem(cJSON_GetArrayItem(json->child, 0), "vector")));
    cJSON_Delete(json);
    free(body);
    load_lines_close(&batch);
    reader_close(&r);
}

Test(load_lines, a_batch_ends_at_its_limit_of_bytes)
{
    enum { LINE = 1 << 20, LINES = 10 };
    char *text = malloc((size_t)LINES * LINE + 1);
    struct load_reader r;
    struct load_lines batch = {0};

    for (int i = 0; i < LINES; i++) {
        char *line = text + (size_t)i * LINE;

        memset(line, 'x', LINE);
        memcpy(line, "{\"id\":\"", 7);
        memcpy(line + LINE - 3, "\"}\n", 3);
    }
    text[(size_t)LINES * LINE] = '\0';
    r = reader_of(text);
    cr_assert(zero(int, load_lines_read(&r, &batch, 1000, NULL)));
    cr_assert(lt(u32, batch.count, LINES));
    cr_assert(gt(u32, batch.count, 1));
    load_lines_close(&batch);
    reader_close(&r);
    free(text);
}
