"""A classifier of sounds in ten lines of scikit-learn: a folder for each class, each with its
sounds.

python examples/classifier.py FOLDER [SOUND...]
"""

import sys

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hear_mwmae
from hear_mwmae.audio import find_audio

files = find_audio([sys.argv[1]])
classes = [file.parent.name for file in files]
model = hear_mwmae.load_model()
embeddings = model.embed(files).numpy()
classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
print(f"accuracy, cross-validated: {cross_val_score(classifier, embeddings, classes).mean():.1%}")
classifier.fit(embeddings, classes)
for sound in sys.argv[2:]:
    print(f"{sound}: {classifier.predict(model.embed(sound).numpy())[0]}")
