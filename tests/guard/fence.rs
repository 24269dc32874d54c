//! Memory between pages that may not be touched: an allocator that puts there what a test asks for, so that
//! a read or write past either end of any operand ends the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which end of an allocation is that of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The byte before the first one may not be touched.
    Start,
    /// The byte behind the last one may not be touched.
    End,
}

/// The allocator. Outside [`at`] it is the system's.
pub struct Fence;

/// Address space of a thread, and how many threads have some. Nothing of it may be touched at first.
const ARENA: usize = 1 << 30;
const ARENAS: usize = 64;

/// Where the arenas lie, and how many are taken.
static BASE: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A thread's own arena.
#[derive(Clone, Copy)]
struct Arena {
    base: usize,
    next: usize,
    /// Allocations that are in use: without any, the arena is used again from its start.
    live: usize,
    side: Option<Side>,
}

thread_local! {
    static OWN: Cell<Arena> = const { Cell::new(Arena { base: 0, next: 0, live: 0, side: None }) };
    /// What the thread is about to do, as UTF-8.
    static DOING: Cell<(*const u8, usize)> = const { Cell::new((core::ptr::null(), 0)) };
}

pub fn page() -> usize {
    // SAFETY: a question without arguments that could be wrong.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Address space of which nothing may be touched.
fn reserve(bytes: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, of no file.
    let p = unsafe { libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if p == libc::MAP_FAILED { 0 } else { p as usize }
}

/// The whole pages of some bytes become readable, writable or neither.
fn protect(start: usize, end: usize, how: i32) {
    // SAFETY: the pages belong to an arena; who calls this knows what lies there.
    let failed = unsafe { libc::mprotect(start as *mut libc::c_void, end - start, how) };
    assert!(failed == 0, "mprotect of {} bytes", end - start);
}

fn is_fenced(p: usize) -> bool {
    let base = BASE.load(Ordering::Acquire);
    base != 0 && (base..base + ARENA * ARENAS).contains(&p)
}

fn own_arena() -> Option<usize> {
    if BASE.load(Ordering::Acquire) == 0 {
        let base = reserve(ARENA * ARENAS);
        // Two threads may both reserve: the address space of one of them stays unused.
        let _ = BASE.compare_exchange(0, base, Ordering::AcqRel, Ordering::Acquire);
    }
    let (base, i) = (BASE.load(Ordering::Acquire), TAKEN.fetch_add(1, Ordering::Relaxed));
    (base != 0 && i < ARENAS).then(|| base + i * ARENA)
}

/// The first and the last page of an allocation.
fn pages(p: usize, size: usize) -> (usize, usize) {
    let page = page();
    (p / page * page, (p + size).next_multiple_of(page))
}

// SAFETY: blocks of an arena are pages that no other block has, until they are given back; others are the
// system's.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut own = OWN.get();
        let (Some(side), page) = (own.side, page()) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        };
        if own.base == 0 {
            let Some(base) = own_arena() else { return core::ptr::null_mut() };
            own.base = base;
        }
        if own.live == 0 {
            own.next = page;
        }
        let (start, size) = (own.base + own.next, layout.size().next_multiple_of(page));
        if layout.align() > page || own.next + size + page > ARENA {
            return core::ptr::null_mut();
        }
        (own.next, own.live) = (own.next + size + page, own.live + 1);
        OWN.set(own);
        protect(start, start + size, libc::PROT_READ | libc::PROT_WRITE);
        let at = match side {
            Side::Start => start,
            Side::End => (start + size - layout.size()) / layout.align() * layout.align(),
        };
        at as *mut u8
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        let at = p as usize;
        if !is_fenced(at) {
            // SAFETY: as the caller promises.
            return unsafe { System.dealloc(p, layout) };
        }
        let (start, end) = pages(at, layout.size());
        // SAFETY: the block's own pages.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        protect(start, end, libc::PROT_NONE);
        let mut own = OWN.get();
        if (own.base..own.base + ARENA).contains(&at) {
            own.live -= 1;
            OWN.set(own);
        }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises; both blocks have room for what is copied.
        unsafe {
            if !is_fenced(p as usize) && OWN.get().side.is_none() {
                return System.realloc(p, layout, size);
            }
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(p, new, size.min(layout.size()));
                self.dealloc(p, layout);
            }
            new
        }
    }
}

/// Whatever `f` allocates has its own pages, and ends or starts with them.
pub fn at<R>(side: Side, f: impl FnOnce() -> R) -> R {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            OWN.set(Arena { side: None, ..OWN.get() });
        }
    }
    OWN.set(Arena { side: Some(side), ..OWN.get() });
    let _back = Back;
    f()
}

fn addresses<T>(slice: &[T]) -> (usize, usize) {
    let bytes = slice.as_ptr_range();
    assert!(slice.is_empty() || is_fenced(bytes.start as usize), "allocated outside `at`");
    (bytes.start as usize, bytes.end as usize)
}

/// From here on, writing to the slice's pages ends the process.
pub fn read_only<T>(slice: &[T]) {
    let (start, end) = addresses(slice);
    if !slice.is_empty() {
        let (start, end) = pages(start, end - start);
        protect(start, end, libc::PROT_READ);
    }
}

/// From here on, touching the pages of the slice, which begins with one, ends the process.
pub fn hide<T>(slice: &[T]) {
    let (start, end) = addresses(slice);
    assert!(start.is_multiple_of(page()), "not the start of a page");
    protect(start, end.next_multiple_of(page()), libc::PROT_NONE);
}

/// What is printed if a fence ends the process while this exists.
pub struct Doing {
    _what: String,
}

impl Doing {
    pub fn new(what: String) -> Doing {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler only reads the thread's own text and writes it; the signal's default action
            // follows, since the handler is for one signal and the instruction is tried again.
            unsafe {
                let mut action: libc::sigaction = core::mem::zeroed();
                action.sa_sigaction = print_doing as *const () as usize;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
                libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
                libc::sigaction(libc::SIGBUS, &action, core::ptr::null_mut());
            }
        });
        DOING.set((what.as_ptr(), what.len()));
        Doing { _what: what }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        DOING.set((core::ptr::null(), 0));
    }
}

extern "C" fn print_doing(_signal: i32) {
    let (text, len) = DOING.get();
    if len == 0 {
        return;
    }
    for (text, len) in
        [(c"touched what lies outside: ".as_ptr().cast(), 27), (text, len), (c"\n".as_ptr().cast(), 1)]
    {
        // SAFETY: bytes of a constant, or of the text that is there until `Doing` is dropped.
        unsafe { libc::write(2, text.cast(), len) };
    }
}

/// Whether `f` ends the process, which is tried in a child.
pub fn is_fatal(f: impl FnOnce()) -> bool {
    // SAFETY: the child only reads or writes memory, and ends without running anything else.
    unsafe {
        match libc::fork() {
            0 => {
                f();
                libc::_exit(0)
            }
            child => {
                let mut status = 0;
                assert!(child > 0 && libc::waitpid(child, &mut status, 0) == child, "a child process");
                libc::WIFSIGNALED(status)
            }
        }
    }
}
