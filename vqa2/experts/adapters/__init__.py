"""Programs that run in the checkout of a released model which has no command that prints the score of one video.

Each calls the released code and adds nothing but the printing; `third_party/<checkout>` is the working directory, its
own Python the interpreter. Read at the commits that they name; none was run with its weights by us.
"""
