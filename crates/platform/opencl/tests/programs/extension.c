/* Loads a program that was built as a library, in a scope of its own as Python loads its extensions, and
 * runs it. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    int (*run)(int, char **) = (int (*)(int, char **))dlsym(library, "main");
    return run(count - 1, arguments + 1);
}
