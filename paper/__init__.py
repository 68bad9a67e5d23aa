"""Tell the judgement: render findings as HTML, LaTeX and PDF."""
