// A GPU that is not there: the words of CUDA in C++, and a launch that runs every thread of every block. The kernels are
// included at the end, and KERNEL makes each known by its name.
//
// Threads of a block run on fibers, which change at __syncthreads: a fiber runs one thread after the other until one of
// them has to wait there. Blocks come one after the other, and they and their threads in an order that is drawn anew from
// a seed, since nothing may depend on it. Shared memory is poison when a block begins: all of its bits are set, so that
// floats in it are not numbers.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <math.h>
#include <memory>
#include <numeric>
#include <random>
#include <setjmp.h>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

// What this module keeps lies in a section of its own, apart from what kernels share.
#define OWN __attribute__((section("emulator")))
// What has no value to begin with lies between these two: nothing but the shared memory of all kernels.
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];

// An argument as it is handed over: what it is, and its bits.
struct Argument {
    unsigned kind;
    unsigned long long bits;
};

namespace emulator {

const unsigned POINTER = 0, COUNT = 1, VALUE = 2, READ_ONLY = 3;
const size_t STACK = 1 << 16;

struct Index {
    unsigned x, y, z;
};

struct Fiber {
    // Where it begins, and where it goes on.
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    std::unique_ptr<char[]> stack{new char[STACK]};
    // The thread that it runs, and the line of the barrier where that waits.
    unsigned thread = 0, line = 0;
};

// Makes what a thread of a kernel runs from its arguments; a fault where they are not those of its parameters.
using Kernel = std::function<std::string(const Argument *, unsigned, std::function<void()> &)>;

struct Machine {
    std::map<std::string, Kernel> kernels;
    // Of each kernel, what its parameters are.
    std::map<std::string, std::string> signatures;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::function<void()> body;
    jmp_buf scheduler;
    Fiber *running = nullptr;
    // The threads of a block in their order, how many have begun, and how many have come to their end.
    std::vector<unsigned> order;
    unsigned begun = 0, ended = 0;
    std::string fault;
};

OWN Machine *machine = new Machine;
OWN Index thread, block, block_size, grid;

// Back to the scheduler, until that goes on with this fiber.
void pause() {
    if (_setjmp(machine->running->place) == 0) _longjmp(machine->scheduler, 1);
}

void wait_at(unsigned line) {
    machine->running->line = line;
    pause();
    thread = Index{machine->running->thread, 0, 0};
}

// A fiber begins threads as long as there are any, and is used again for those of the next block.
void live() {
    for (;;) {
        while (machine->begun < machine->order.size()) {
            Fiber &own = *machine->running;
            own.thread = machine->order[machine->begun++];
            thread = Index{own.thread, 0, 0};
            machine->body();
            machine->ended++;
        }
        machine->running->line = 0;
        pause();
    }
}

// Runs a fiber until it pauses.
void go_on(Fiber &fiber) {
    machine->running = &fiber;
    if (_setjmp(machine->scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, live, 0);
    setcontext(&fiber.context);
}

// Runs all threads of a block to their end, from barrier to barrier.
std::string run_block(unsigned threads, std::mt19937 &random) {
    memset(__bss_start, 0xff, _end - __bss_start);
    machine->order.resize(threads);
    std::iota(machine->order.begin(), machine->order.end(), 0u);
    std::shuffle(machine->order.begin(), machine->order.end(), random);
    machine->begun = machine->ended = 0;
    std::vector<Fiber *> waiting;
    for (size_t next = 0; machine->begun < threads; next++) {
        if (next == machine->fibers.size()) machine->fibers.push_back(std::make_unique<Fiber>());
        go_on(*machine->fibers[next]);
        if (machine->fibers[next]->line) waiting.push_back(machine->fibers[next].get());
    }
    while (!waiting.empty()) {
        if (machine->ended > 0) return std::to_string(machine->ended) + " threads ended where the others wait at a barrier";
        for (Fiber *fiber : waiting)
            if (fiber->line != waiting[0]->line) return "threads wait at two barriers";
        std::shuffle(waiting.begin(), waiting.end(), random);
        for (Fiber *fiber : waiting) go_on(*fiber);
        // Those that came to their end wait no more.
        waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [](Fiber *fiber) { return fiber->line == 0; }), waiting.end());
    }
    return "";
}

std::string run_blocks(unsigned threads, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<unsigned long long> order((unsigned long long)grid.x * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0ull);
    std::shuffle(order.begin(), order.end(), random);
    block_size = Index{threads, 1, 1};
    for (unsigned long long at : order) {
        block = Index{(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
        std::string fault = run_block(threads, random);
        if (fault.empty()) continue;
        // Some of them stand in the middle of a kernel.
        machine->fibers.clear();
        return "block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " + std::to_string(block.z) + "): " + fault;
    }
    return "";
}

template <class T> T *read(const Argument &argument, T **) { return reinterpret_cast<T *>(argument.bits); }
inline unsigned read(const Argument &argument, unsigned *) { return (unsigned)argument.bits; }
inline float read(const Argument &argument, float *) {
    unsigned bits = (unsigned)argument.bits;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> unsigned kind(T **) { return POINTER; }
template <class T> unsigned kind(const T **) { return READ_ONLY; }
inline unsigned kind(unsigned *) { return COUNT; }
inline unsigned kind(float *) { return VALUE; }

template <class... P, size_t... At>
std::string prepare(void (*kernel)(P...), const Argument *given, unsigned count, std::function<void()> &body, std::index_sequence<At...>) {
    if (count != sizeof...(P)) return std::to_string(count) + " arguments for " + std::to_string(sizeof...(P)) + " parameters";
    const unsigned kinds[] = {kind((P *)nullptr)...};
    for (unsigned at = 0; at < count; at++)
        if (given[at].kind != (kinds[at] == READ_ONLY ? POINTER : kinds[at])) return "argument " + std::to_string(at) + " is not of its parameter's kind";
    std::tuple<P...> values(read(given[At], (P *)nullptr)...);
    body = [=] { std::apply(kernel, values); };
    return "";
}

template <class... P> bool known(const char *name, void (*kernel)(P...)) {
    machine->signatures[name] = std::string{"wufr"[kind((P *)nullptr)]...};
    machine->kernels[name] = [=](const Argument *given, unsigned count, std::function<void()> &body) {
        return emulator::prepare(kernel, given, count, body, std::index_sequence_for<P...>());
    };
    return true;
}

} // namespace emulator

// What the parameters of a kernel are, one letter each: r and w for pointers to what is only read and what is written,
// u for a number, f for a value. Null where there is no such kernel.
extern "C" __attribute__((visibility("default"))) const char *signature(const char *name) {
    auto kernel = emulator::machine->signatures.find(name);
    return kernel == emulator::machine->signatures.end() ? nullptr : kernel->second.c_str();
}

// Runs a kernel, and gives the fault where there is one, until the next call.
extern "C" __attribute__((visibility("default"))) const char *run(const char *name, const unsigned *blocks, unsigned threads,
                                                                  const Argument *arguments, unsigned count, unsigned seed) {
    using namespace emulator;
    auto kernel = machine->kernels.find(name);
    machine->fault = kernel == machine->kernels.end() ? "there is no such kernel" : kernel->second(arguments, count, machine->body);
    if (machine->fault.empty()) {
        grid = Index{blocks[0], blocks[1], blocks[2]};
        machine->fault = run_blocks(threads, seed);
    }
    return machine->fault.empty() ? nullptr : machine->fault.c_str();
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() emulator::wait_at(__LINE__)
#define threadIdx emulator::thread
#define blockIdx emulator::block
#define blockDim emulator::block_size
#define gridDim emulator::grid
#define KERNEL(name, parameters, call) \
    static void name parameters { call; } \
    OWN bool known_##name = emulator::known(#name, name);

static inline float inverse_root(float x) { return 1.f / sqrtf(x); }

static inline float bits_to_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline unsigned float_to_bits(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// Halves are computed with in f32, as steps of 2^-24 below 2^-14 and with a shorter exponent above.
static inline float half_to_float(unsigned short bits) {
    unsigned exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf((float)fraction, -24)
                                 : ldexpf((float)(fraction | 1024u), (int)exponent - 25);
    return bits >> 15 ? -size : size;
}

static inline unsigned short float_to_half(float x) {
    unsigned short sign = signbit(x) ? 0x8000 : 0;
    float size = fabsf(x);
    if (size != size) return 0x7fff;
    // From here on the nearest half is more than the largest, 65504.
    if (size >= 65520.f) return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    // Eleven digits, of which the first is not stored; rintf takes the nearest, of two the even one. What comes to a
    // twelfth digit carries into the exponent, as it should.
    exponent = std::max(exponent, -13);
    unsigned digits = (unsigned)rintf(ldexpf(size, 11 - exponent));
    return sign | (unsigned short)(digits + ((unsigned)(exponent + 13) << 10));
}

using std::max;
using std::min;

namespace {
#include "kernels.cu"
}
