//! Signals, drain and deadline: how every petmesh binary ends.
