//! Model checks of `arch-ppc64`: see `tests`.
