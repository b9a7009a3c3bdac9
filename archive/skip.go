package archive

// AddHead is [Writer.Add] without the content: it writes the records that come
// before it, flushes, and goes on as if n.Size bytes of content had been written.
// So what reaches the underlying writer between two calls is where content is left
// out. It returns the offset of the node's ENTRY record.
func (w *Writer) AddHead(name string, n *Node) (entry int64, err error) {
	entry = w.off + headerSize + int64(len(name)) + 1
	return entry, w.leaf(name, n, func() error {
		w.off += n.Size
		return w.w.Flush()
	})
}
