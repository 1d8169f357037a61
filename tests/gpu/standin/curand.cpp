// libcurand: a generator can be made; the program never draws a number from it.

#include "gpu.hpp"

using namespace gpu;

API int curandCreateGenerator(void **generator, int) {
    if (called("curandCreateGenerator")) return 203;
    *generator = new int(0);
    return 0;
}

API int curandDestroyGenerator(void *generator) {
    delete (int *)generator;
    return called("curandDestroyGenerator") ? 203 : 0;
}

API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return called("curandSetPseudoRandomGeneratorSeed") ? 203 : 0; }

API int curandSetStream(void *, void *) { return called("curandSetStream") ? 203 : 0; }
