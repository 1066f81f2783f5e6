/* Mistakes that a compiler accepts and each of the analyzers must object to. Never linked. */
#include <stdlib.h>

int wrong_null(void);
int wrong_null(void)
{
    int *numbers = calloc(4, sizeof *numbers);

    numbers[0] = 7; /* may be NULL */
    int first = numbers[0];
    free(numbers);
    return first;
}

int wrong_after_free(int count);
int wrong_after_free(int count)
{
    char *text = malloc(16);

    if (text == NULL) {
        return -1;
    }
    text[0] = (char)count;
    if (count > 3) {
        free(text);
    }
    count += text[0]; /* freed above when count > 3 */
    if (count <= 3) {
        free(text);
    }
    return count;
}

int wrong_uninitialised(int count);
int wrong_uninitialised(int count)
{
    int values[4];

    return values[count & 3];
}
