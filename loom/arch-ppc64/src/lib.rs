//! Model checks of `pgtable-ppc64`: see `tests`.
