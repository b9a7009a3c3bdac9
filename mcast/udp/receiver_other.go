//go:build !linux

package udp

// batch holds the buffers of one system call.
type batch struct {
	data []byte
	oob  []byte
}

const (
	messageSize = 1 << 16 // bytes, more than any UDP packet
	oobSize     = 128     // bytes, more than the control message of in6_pktinfo
)

func (r *Receiver) init(o ReceiverOptions) error {
	r.batch = batch{make([]byte, messageSize), make([]byte, oobSize)}
	r.buffer = o.RecvBuffer
	// Systems refuse sizes beyond their limit.
	for r.conn.SetReadBuffer(r.buffer) != nil && r.buffer > minRecvBuffer {
		r.buffer /= 2
	}
	return r.requestMeta()
}

// minRecvBuffer is a size in bytes at which there is no point in trying less.
const minRecvBuffer = 64 << 10

func (r *Receiver) readBatch() error {
	n, oobn, flags, source, err := r.conn.ReadMsgUDPAddrPort(r.batch.data, r.batch.oob)
	if isTruncated(flags, err) {
		r.truncated.Add(1)
		return nil
	}
	if err != nil {
		return err
	}
	m, err := parse(r.batch.oob[:oobn])
	if err != nil {
		return err
	}
	r.add(r.batch.data[:n], m, source.Addr())
	return nil
}
