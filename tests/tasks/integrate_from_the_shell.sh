# The cells of cells.h5ad are integrated and labeled; later, those of new.h5ad are mapped. Both files hold counts.
set -eu
muport transfer cells.h5ad --prepare -o integrated.h5ad --batch-key batch --labels-key cell_type --save shell_model --quiet
muport transfer new.h5ad --prepare -o mapped.h5ad --load shell_model --quiet
test -s integrated.h5ad -a -s mapped.h5ad -a -d shell_model
