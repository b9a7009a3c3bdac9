package tarfile

import "fmt"

// Problem is something that is not in the result as it is in the source.
type Problem struct {
	Path string // in the tree, with slashes
	What string // "socket", "attributes" or "acl"
	Err  error
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %s: %v", show(p.Path), p.What, p.Err) }
func (p *Problem) Unwrap() error { return p.Err }

// show returns how errors name a path.
func show(path string) string {
	if path == "" {
		return "root"
	}
	return fmt.Sprintf("%.1024q", path)
}
