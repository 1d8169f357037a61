// Modules and launches. Kernels are those that the stand-in's NVRTC made of the program's own source; of others nothing but
// the names are known.

#include "state.hpp"
#include <cstring>
#include <dlfcn.h>

using namespace gpu;

namespace {

// As in src/cuda/emulator.cpp.
struct Argument {
    unsigned kind;
    unsigned long long bits;
};
using Run = const char *(*)(const char *, const unsigned *, unsigned, const Argument *, unsigned, unsigned);
using Signature = const char *(*)(const char *);

struct Module {
    void *library = nullptr;
    Run run = nullptr;
    Signature signature = nullptr;
};

struct Function {
    Module *module;
    std::string name, parameters;
};

// What NVRTC made: a line that says so, for which GPU, and where it lies.
const char MARK[] = "stand-in kernels for ";

// Kernels run one at a time.
std::mutex running;

} // namespace

API int cuModuleLoadData(void **module, const void *image) {
    if (Error e = called("cuModuleLoadData")) return e;
    const char *text = (const char *)image;
    Module *made = new Module;
    if (strncmp(text, MARK, sizeof MARK - 1) == 0) {
        std::string rest = text + sizeof MARK - 1;
        size_t space = rest.find(' '), end = rest.find('\n');
        if (space == std::string::npos || end == std::string::npos) return INVALID_IMAGE;
        if (rest.substr(0, space) != "sm_90" && rest.substr(0, space) != "compute_90") return NO_BINARY;
        made->library = dlopen(rest.substr(space + 1, end - space - 1).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!made->library) return INVALID_IMAGE;
        made->run = (Run)dlsym(made->library, "run");
        made->signature = (Signature)dlsym(made->library, "signature");
    } else if (!strstr(text, ".version")) {
        return INVALID_IMAGE;
    }
    *module = made;
    return OK;
}

API int cuModuleLoad(void **, const char *) {
    if (Error e = called("cuModuleLoad")) return e;
    return INVALID_IMAGE;
}

API int cuModuleUnload(void *) { return called("cuModuleUnload"); }

API int cuModuleGetFunction(void **function, void *given, const char *name) {
    if (Error e = called("cuModuleGetFunction")) return e;
    count("functions looked up");
    Module *module = (Module *)given;
    const char *parameters = module->library ? module->signature(name) : nullptr;
    if (!parameters) {
        fprintf(stderr, "stand-in: there is no kernel `%s` of the program's own\n", name);
        return NOT_FOUND;
    }
    *function = new Function{module, name, parameters};
    return OK;
}

API int cuLaunchKernel(void *given, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y, unsigned block_z,
                       unsigned shared, void *on, void **parameters, void **extra) {
    if (Error e = called("cuLaunchKernel")) return e;
    Stream *stream = live(on, "cuLaunchKernel");
    const Function &function = *(const Function *)given;
    if (!x || !y || !z || x > 0x7fffffffu || y > 65535 || z > 65535) return INVALID_VALUE;
    if (!block_x || block_x > 1024 || block_y != 1 || block_z != 1 || shared > 48 << 10 || extra) return INVALID_VALUE;
    Operation operation;
    operation.name = "the kernel `" + function.name + "`";
    std::vector<Argument> arguments;
    for (size_t at = 0; at < function.parameters.size(); at++) {
        char kind = function.parameters[at];
        Argument argument{kind == 'u' ? 1u : kind == 'f' ? 2u : 0u, 0};
        memcpy(&argument.bits, parameters[at], kind == 'u' || kind == 'f' ? 4 : 8);
        if (kind == 'r' || kind == 'w') {
            operation.touched.push_back({argument.bits, bytes_from(argument.bits, operation.name), kind == 'w'});
            argument.bits -= FAR;
        }
        arguments.push_back(argument);
    }
    unsigned seed = draw();
    operation.run = [=, name = function.name, run = function.module->run, what = operation.name] {
        std::lock_guard<std::mutex> held(running);
        unsigned blocks[] = {x, y, z};
        const char *wrong = run(name.c_str(), blocks, block_x, arguments.data(), (unsigned)arguments.size(), seed);
        if (wrong) fault(what + ": " + wrong);
    };
    count("kernels");
    count("kernel " + function.name);
    return submit(stream, std::move(operation));
}
