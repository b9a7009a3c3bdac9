// Package testns gives tests a network of their own: hosts in network
// namespaces, joined by a bridge with or without MLD snooping, with loss and
// rate limits. It needs Linux and no privileges.
//
// A package whose tests all may run inside has
//
//	func TestMain(m *testing.M) { os.Exit(testns.Main(m)) }
//
// and others wrap single tests in [Run]. Both run the test binary again in a
// user namespace, in which it is root over the networks that it makes there and
// over nothing else. Every bridge and host is a network namespace of its own, so
// that names never clash, even between parallel tests:
//
//	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true})
//	server, client := b.Host("server"), b.Host("client")
//	server.Do(func() { conn, err = net.ListenPacket("udp6", "[::]:4242") })
//
// Programs it wants: ip and bridge (iproute2), nsenter (util-linux), and for
// [Host.Loss] nft (nftables) or ip6tables (iptables).
package testns
