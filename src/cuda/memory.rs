//! Memory of the GPU that was given back is kept, and handed out again without asking the driver: a step reserves the same
//! memory as the one before it. All of it is used on the one stream that computes, where what is asked for next comes
//! behind all that used it before.
//!
//! It is the driver's functions themselves that are replaced, as candle calls them at every tensor. With
//! `GREEDY_CUDA_CACHE=0` every tensor is the driver's own again, for tools that watch its memory.

use candle_core::cuda_backend::cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub(super) type Reserve = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> CUresult;
pub(super) type Release = unsafe extern "C" fn(CUdeviceptr, CUstream) -> CUresult;

/// Small memory comes in multiples of the one, large memory in multiples of the other, so that what nearly fits is used.
const SMALL: usize = 512;
const LARGE: usize = 1 << 20;

/// The driver's functions, and what is kept of each stream and for whom.
struct Driver {
    reserve: Reserve,
    release: Release,
    kept: Mutex<HashMap<(usize, Owner), Kept>>,
    /// Stands for all memory that recordings work in, until that is given back.
    lent: Mutex<Arc<()>>,
}

/// Whom memory is kept for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Anybody,
    Recordings,
}

/// Where a thread's memory comes from. A recording writes to the same memory whenever it is run, so that what it works in
/// is never anybody else's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// What anybody may have.
    Common,
    /// What recordings work in.
    Recorded,
    /// The same, but never from the driver, which must not be asked while launches are recorded.
    RecordedOnly,
}

thread_local! {
    static STORE: Cell<Store> = const { Cell::new(Store::Common) };
}

/// Memory of one stream.
#[derive(Default)]
struct Kept {
    /// What nobody uses, by size.
    idle: BTreeMap<usize, Vec<CUdeviceptr>>,
    /// The size of all that there is.
    sizes: HashMap<CUdeviceptr, usize>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Takes the place of the driver's functions: those that are to be called instead.
pub(super) fn instead_of(reserve: Reserve, release: Release) -> Option<(Reserve, Release)> {
    if std::env::var_os("GREEDY_CUDA_CACHE").is_some_and(|value| value == "0") {
        return None;
    }
    DRIVER.get_or_init(|| Driver { reserve, release, kept: Mutex::default(), lent: Mutex::default() });
    Some((reserve_again, release_later))
}

/// Whether memory is kept at all.
pub(super) fn is_kept() -> bool {
    DRIVER.get().is_some()
}

/// Lets what a function reserves on this thread come from a store.
pub(super) fn within<T>(store: Store, f: impl FnOnce() -> T) -> T {
    struct Back(Store);
    impl Drop for Back {
        fn drop(&mut self) {
            STORE.set(self.0);
        }
    }
    let _back = Back(STORE.replace(store));
    f()
}

/// The memory that a recording works in.
pub(super) struct Lease(Arc<()>);

/// The memory that recordings work in as it is now.
pub(super) fn lease() -> Lease {
    Lease(DRIVER.get().map(|driver| lock(&driver.lent).clone()).unwrap_or_default())
}

impl Lease {
    /// Calls a function during which the memory stays, unless it was given back before.
    pub fn hold<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        let lent = lock(&DRIVER.get()?.lent);
        Arc::ptr_eq(&lent, &self.0).then(f)
    }
}

/// Bytes that are kept for nobody.
pub(super) fn idle() -> usize {
    let Some(driver) = DRIVER.get() else { return 0 };
    lock(&driver.kept).values().flat_map(|kept| &kept.idle).map(|(size, all)| size * all.len()).sum()
}

/// Gives all that nobody uses back to the driver; recordings are made anew.
pub(super) fn give_back() {
    let Some(driver) = DRIVER.get() else { return };
    *lock(&driver.lent) = Arc::default();
    for (&(stream, _), kept) in lock(&driver.kept).iter_mut() {
        for memory in std::mem::take(&mut kept.idle).into_values().flatten() {
            kept.sizes.remove(&memory);
            // SAFETY: it was reserved on this stream, and nobody has it. A driver that fails has lost it anyway.
            let _ = unsafe { (driver.release)(memory, stream as CUstream) };
        }
    }
}

/// What is behind these locks is whole between any two calls, also where a thread ended in the middle of one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(if bytes < LARGE { SMALL } else { LARGE })
}

impl Kept {
    /// Memory of a size, or little more.
    fn take(&mut self, size: usize) -> Option<CUdeviceptr> {
        let (&found, all) = self.idle.range_mut(size..=size + size / 8).next()?;
        let memory = all.pop();
        if all.is_empty() {
            self.idle.remove(&found);
        }
        memory
    }
}

unsafe extern "C" fn reserve_again(memory: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    let (size, store) = (rounded(bytes), STORE.get());
    let owner = if store == Store::Common { Owner::Anybody } else { Owner::Recordings };
    let key = (stream as usize, owner);
    if let Some(found) = lock(&driver.kept).entry(key).or_default().take(size) {
        // SAFETY: the caller's pointer, as of the driver's function.
        unsafe { memory.write(found) };
        return CUresult::CUDA_SUCCESS;
    }
    if store == Store::RecordedOnly {
        return CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    // SAFETY: the caller's promises, as of the driver's function.
    let mut done = unsafe { (driver.reserve)(memory, size, stream) };
    if done == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        give_back();
        // SAFETY: as before.
        done = unsafe { (driver.reserve)(memory, size, stream) };
    }
    if done == CUresult::CUDA_SUCCESS {
        // SAFETY: it was just written.
        let reserved = unsafe { memory.read() };
        lock(&driver.kept).entry(key).or_default().sizes.insert(reserved, size);
    }
    done
}

unsafe extern "C" fn release_later(memory: CUdeviceptr, stream: CUstream) -> CUresult {
    let Some(driver) = DRIVER.get() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    for owner in [Owner::Anybody, Owner::Recordings] {
        if let Some(kept) = lock(&driver.kept).get_mut(&(stream as usize, owner))
            && let Some(&size) = kept.sizes.get(&memory)
        {
            kept.idle.entry(size).or_default().push(memory);
            return CUresult::CUDA_SUCCESS;
        }
    }
    // SAFETY: the caller's promises, as of the driver's function.
    unsafe { (driver.release)(memory, stream) }
}
