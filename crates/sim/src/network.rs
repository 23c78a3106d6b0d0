//! stub
use crate::history::NodeIndex; use crate::random::Random; use bytes::Bytes; use rejoin_gossip::wire::Lane; use std::collections::BTreeMap;
pub use link::{Bursts, Latency, LinkConditions};
mod link;
#[derive(Debug,Clone,Copy,PartialEq,Eq,PartialOrd,Ord,Hash)] pub struct ConnectionId(pub u64);
#[derive(Debug,Clone,Copy,PartialEq,Eq,PartialOrd,Ord,Hash)] pub struct End { pub connection: ConnectionId, pub node: NodeIndex }
#[derive(Debug)] pub enum NetworkEvent { Connected{end:End,peer:NodeIndex}, Incoming{end:End,peer:NodeIndex}, Received{end:End,lane:Lane,bytes:Bytes,sent_ms:u64}, Closed{end:End,peer:NodeIndex,why:String} }
#[derive(Debug,Clone,Default)] pub struct TransportConfig { pub idle_timeout_ms: u64, pub keep_alive_ms: u64 }
#[derive(Debug)] pub struct Network;
impl Network {
 pub fn new(_:Random,_:usize,_:TransportConfig)->Self{Network}
 pub fn next_at_ms(&self)->Option<u64>{None}
 pub fn advance(&mut self,_:u64)->Vec<NetworkEvent>{vec![]}
 pub fn counts(&self)->BTreeMap<&'static str,u64>{BTreeMap::new()}
 pub fn digest_into(&self,_:&mut blake3::Hasher){}
 pub fn set_node_up(&mut self,_:NodeIndex,_:bool){}
 pub fn forget_node(&mut self,_:NodeIndex){}
 pub fn buffered(&self,_:End)->usize{0}
 pub fn unread(&self,_:End)->usize{0}
 pub fn dial(&mut self,_:NodeIndex,_:NodeIndex,_:u64){}
 pub fn close(&mut self,_:End,_:u32,_:String,_:u64){}
 pub fn send(&mut self,_:End,_:Lane,_:Bytes,_:u64){}
 pub fn set_link(&mut self,_:NodeIndex,_:NodeIndex,_:LinkConditions){}
 pub fn link(&self,_:NodeIndex,_:NodeIndex)->&LinkConditions{todo!()}
 pub fn change_address(&mut self,_:NodeIndex,_:u64){}
 pub fn set_reading(&mut self,_:NodeIndex,_:bool,_:u64){}
 pub fn pause(&mut self,_:NodeIndex,_:bool,_:u64){}
 pub fn data_bytes_sent(&self)->u64{0}
}
