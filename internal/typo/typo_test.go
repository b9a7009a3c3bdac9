package typo

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"http", "https", "s3", "ssh", "sftp"}
	for word, want := range map[string]string{
		"htp": "http", "htttps": "https", "sfpt": "sftp", "http": "http", "stp": "sftp", "sft": "sftp",
		"": "", "x": "", "s": "", "gopher": "", "file": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}
