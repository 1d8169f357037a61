// A compiler that makes kernels for the stand-in: the machine's own C++ compiler, with the emulator's words of CUDA.

#include "gpu.hpp"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

using namespace gpu;

namespace {

enum { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6, BUILTIN_OPERATION_FAILURE = 7 };

struct Program {
    std::string source, image, log;
    bool real = false;
};

// The folder of this library.
std::string folder() {
    Dl_info info;
    dladdr((void *)folder, &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

std::string read(const std::string &path) {
    std::ifstream in(path);
    std::stringstream all;
    all << in.rdbuf();
    return all.str();
}

} // namespace

extern "C" __attribute__((visibility("default"))) int nvrtcCreateProgram(void **program, const char *source, const char *, int headers,
                                                                         const char *const *, const char *const *) {
    if (!source || headers != 0) return INVALID_INPUT;
    *program = new Program{source, "", ""};
    return SUCCESS;
}

API int nvrtcCompileProgram(void *given, int options, const char *const *option) {
    Program &program = *(Program *)given;
    // The real one opens this by its bare name, and has no path of its own to look for it.
    if (!dlopen("libnvrtc-builtins.so.13.0", RTLD_NOW)) {
        program.log = std::string("nvrtc: error: failed to open libnvrtc-builtins.so.13.0.\n") + dlerror();
        return BUILTIN_OPERATION_FAILURE;
    }
    std::string arch;
    for (int at = 0; at < options; at++) {
        std::string own = option[at];
        if (own.rfind("--gpu-architecture=", 0) == 0) arch = own.substr(19);
        else if (own != "--std=c++17") return program.log = "unknown option " + own, INVALID_OPTION;
    }
    if (arch != "compute_90" && arch != "sm_90") return program.log = "no such architecture: " + arch, INVALID_OPTION;
    program.real = arch == "sm_90";
    if (program.source.find("#include") != std::string::npos) return program.log = "no headers are here", COMPILATION;
    count("compilations");

    std::string emulator = read(folder() + "/emulator.cpp"), together = emulator + program.source;
    const char *kept = getenv("GREEDY_STANDIN_CACHE");
    std::string name = (kept ? kept : folder()) + "/kernels-" + std::to_string(std::hash<std::string>()(together));
    std::string library = name + ".so";
    if (access(library.c_str(), R_OK) != 0) {
        std::string own = name + "." + std::to_string(getpid());
        mkdir(own.c_str(), 0777);
        std::ofstream(own + "/emulator.cpp") << emulator;
        std::ofstream(own + "/kernels.cu") << program.source;
        const char *compiler = getenv("CXX");
        std::string command = std::string(compiler ? compiler : "c++") +
                              " -std=c++17 -O2 -fno-strict-aliasing -fPIC -shared -Wno-unknown-pragmas -o '" + own + "/kernels.so' '" + own +
                              "/emulator.cpp' 2> '" + own + "/log'";
        if (system(command.c_str()) != 0) return program.log = read(own + "/log"), COMPILATION;
        rename((own + "/kernels.so").c_str(), library.c_str());
        for (const char *file : {"/emulator.cpp", "/kernels.cu", "/log"}) unlink((own + file).c_str());
        rmdir(own.c_str());
    }
    program.image = "stand-in kernels for " + arch + " " + library + "\n";
    return SUCCESS;
}

API int nvrtcDestroyProgram(void **program) {
    delete (Program *)*program;
    *program = nullptr;
    return SUCCESS;
}

API int nvrtcGetPTXSize(void *given, size_t *size) {
    *size = ((Program *)given)->image.size() + 1;
    return SUCCESS;
}

API int nvrtcGetPTX(void *given, char *ptx) {
    const std::string &image = ((Program *)given)->image;
    memcpy(ptx, image.c_str(), image.size() + 1);
    return image.empty() ? INVALID_PROGRAM : SUCCESS;
}

// Machine code there is for a real architecture only.
API int nvrtcGetCUBINSize(void *given, size_t *size) {
    const Program &program = *(Program *)given;
    *size = program.real ? program.image.size() + 1 : 0;
    return SUCCESS;
}

API int nvrtcGetCUBIN(void *given, char *cubin) {
    const Program &program = *(Program *)given;
    if (!program.real || program.image.empty()) return INVALID_PROGRAM;
    memcpy(cubin, program.image.c_str(), program.image.size() + 1);
    return SUCCESS;
}

API int nvrtcVersion(int *major, int *minor) {
    *major = 13;
    *minor = 0;
    return SUCCESS;
}

API int nvrtcGetProgramLogSize(void *given, size_t *size) {
    *size = ((Program *)given)->log.size() + 1;
    return SUCCESS;
}

API int nvrtcGetProgramLog(void *given, char *log) {
    const std::string &own = ((Program *)given)->log;
    memcpy(log, own.c_str(), own.size() + 1);
    return SUCCESS;
}
