#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod command;
mod demo;
mod leaf_map;
pub mod store;
