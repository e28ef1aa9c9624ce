//! What a forget waits for, and what it does not.

extern crate std;

use core::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Window, Windows};

/// A forget that waits for the holder of the first of two windows, and what happens meanwhile.
fn beside_a_forget(meanwhile: impl FnOnce(&Windows)) -> Windows {
    let (windows, done) = (Windows::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        let held = windows.lock(0);
        assert!(held.is_some());
        scope.spawn(|| {
            windows.forget();
            done.store(true, Ordering::Release);
        });
        while windows.slots[0].waiting.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        meanwhile(&windows);
        assert!(!done.load(Ordering::Acquire), "it has not waited");
        drop(held);
    });
    assert!(done.into_inner());
    windows
}

#[test]
fn a_forget_waits_for_who_came_before() {
    beside_a_forget(|_| ());
}

/// It comes to the second window while that is held, and ends all the same.
#[test]
fn a_forget_does_not_wait_for_who_comes_later() {
    let windows = Windows::new(2);
    thread::scope(|scope| {
        let (first, forget) = (windows.lock(0), || windows.forget());
        let forgets = scope.spawn(forget);
        while windows.slots[0].waiting.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let later = windows.lock(1);
        assert!(later.is_some_and(|later| {
            drop(first);
            forgets.join().is_ok() && later.generation == 1
        }));
    });
}

/// Who looks for a window passes over the one that a forget waits for, until no other is free.
#[test]
fn a_forget_is_not_overtaken() {
    let windows = beside_a_forget(|windows| {
        let other = windows.lock(0);
        assert!(other.is_some() && windows.slots[1].window.try_lock().is_err());
        assert!(windows.lock(0).is_none(), "both are held");
    });
    assert!(windows.slots.iter().all(|slot| slot.waiting.load(Ordering::Relaxed) == 0));
    let (waiting, free) =
        (&windows.slots[0].waiting, |index: usize| windows.slots[index].window.try_lock().is_ok());
    waiting.store(1, Ordering::Relaxed);
    let first = windows.lock(0);
    assert!(first.is_some() && free(0) && !free(1), "left to the forget");
    let second = windows.lock(0);
    assert!(second.is_some() && !free(0), "but not where no other is free");
    drop((first, second));
}

/// What a window held is gone after a forget, and where its holder panicked.
#[test]
fn a_window_of_an_older_generation_is_empty() {
    let windows = Windows::new(1);
    let filled = || Window { start: 0x1000, end: 0x2000, ..Window::default() };
    let ends = |windows: &Windows| windows.lock(0).map(|window| window.end);
    let fill = |windows: &Windows| windows.lock(0).map(|mut window| window.fill(filled()));
    assert!(fill(&windows).is_some());
    assert_eq!(ends(&windows), Some(0x2000));
    windows.forget();
    assert_eq!(ends(&windows), Some(0));
    assert!(fill(&windows).is_some());
    let panicked = thread::scope(|scope| {
        let holds = || {
            let _window = windows.lock(0);
            std::panic::resume_unwind(std::boxed::Box::new(()));
        };
        scope.spawn(holds).join()
    });
    assert!(panicked.is_err());
    assert_eq!([ends(&windows), ends(&windows)], [Some(0); 2]);
    windows.forget();
}
