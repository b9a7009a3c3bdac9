// Package typo finds what a misspelt word was meant to be.
package typo

// Nearest returns the first of the known words that is nearest to word, if no more than
// two letters have to be inserted, deleted or changed for it, and fewer than word has;
// else "". Letters are bytes.
func Nearest(word string, known []string) string {
	best, most := "", min(2, len(word)-1)
	for _, k := range known {
		if d := distance(word, k); d <= most {
			best, most = k, d-1
		}
	}
	return best
}

// distance is the number of letters to insert, delete or change between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := before
			if a[i] != b[j] {
				n = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], n
		}
	}
	return row[len(b)]
}
