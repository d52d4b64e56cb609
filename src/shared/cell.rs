//! A cell that the contexts of one worker share.
//!
//! All contexts of a worker run on one thread, so no lock is needed. A value can only be busy if it is used again further up
//! the stack, which is a mistake in this code. A request must not end in a panic because of it: the use is skipped, and
//! counted.

use std::cell::{Cell, RefCell};

thread_local! {
    /// The skipped uses on this thread since [`take_busy`] was last called. They are only reported, nothing decides by them.
    static BUSY: Cell<u64> = const { Cell::new(0) };
}

/// Returns how often a use was skipped on this thread because the value was busy, and starts again from 0.
pub fn take_busy() -> u64 {
    BUSY.take()
}

#[cold]
fn count_busy() {
    BUSY.set(BUSY.get().saturating_add(1));
}

/// A value that the contexts of one worker share.
#[derive(Debug, Default)]
pub struct SharedCell<T>(RefCell<T>);

impl<T> SharedCell<T> {
    /// Makes a cell of this value.
    pub const fn new(value: T) -> SharedCell<T> {
        SharedCell(RefCell::new(value))
    }

    /// Calls `read` with the value. Returns `None` if the value is being changed further up the stack.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> Option<R> {
        match self.0.try_borrow() {
            Ok(value) => Some(read(&value)),
            Err(_) => {
                count_busy();
                None
            }
        }
    }

    /// Calls `change` with the value. Returns `None` if the value is in use further up the stack.
    pub fn with_mut<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        match self.0.try_borrow_mut() {
            Ok(mut value) => Some(change(&mut value)),
            Err(_) => {
                count_busy();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SharedCell, take_busy};

    #[test]
    fn a_use_of_a_busy_value_is_skipped_and_counted() {
        let cell = SharedCell::new(1);
        let inner = cell.with_mut(|value| {
            *value += 1;
            (cell.with(|value| *value), cell.with_mut(|value| *value += 1))
        });
        assert_eq!(inner, Some((None, None)));
        assert_eq!(cell.with(|_| cell.with_mut(|value| *value += 1)), Some(None));
        assert_eq!(cell.with(|value| cell.with(|again| value + again)), Some(Some(4)));
        assert_eq!((take_busy(), take_busy()), (3, 0));
    }
}
