#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod backend;
pub mod cluster;
#[cfg(feature = "load")]
pub mod compare;
pub mod floor;
#[cfg(feature = "matrix")]
pub mod invocation;
#[cfg(feature = "load")]
pub mod load;
mod machines;
#[cfg(feature = "matrix")]
pub mod matrix;
pub mod messages;
mod numbers;
#[cfg(feature = "matrix")]
pub mod parts;
pub mod process;
pub mod stores;
#[cfg(feature = "matrix")]
mod tables;
pub mod transports;
pub mod trio;
#[cfg(feature = "load")]
pub mod trouble;

/// The program in the workspace's README, compiled and run with the tests.
#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct WorkspaceReadme;
