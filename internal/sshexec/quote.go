package sshexec

import (
	"errors"
	"strings"
)

// Quote returns the command line with which a POSIX shell runs argv. No argument
// may contain a NUL byte.
func Quote(argv ...string) (string, error) {
	var b strings.Builder
	for i, arg := range argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return "", errors.New("NUL byte in a command")
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		if arg != "" && strings.Trim(arg, plainChars) == "" {
			b.WriteString(arg)
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(arg, "'", `'\''`) + "'")
	}
	return b.String(), nil
}

// plainChars are those that no shell changes, at any place of a word.
const plainChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+,"
