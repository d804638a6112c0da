//! Services, EndpointSlices and a Node become one ForwardingTable; and the oracle that says what happens to a packet.
